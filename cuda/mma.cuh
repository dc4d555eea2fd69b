// Copies to shared memory that run on behind a thread's back, and products of small matrices on the tensor cores.
//
// A fragment is what a lane holds of a matrix. With g = lane / 4 and c = lane % 4, of the product of 16 rows and 8 rows over
// 32 bytes of each (16 numbers of 16 bits, 32 of eight):
//
//   left [16 rows]    word 0: row g, bytes 4c..     1: row g + 8, bytes 4c..    2: row g, bytes 16 + 4c..    3: row g + 8, the same
//   right [8 rows]    word 0: row g, bytes 4c..     1: row g, bytes 16 + 4c..
//   sums [16 x 8]     0: (g, 2c)    1: (g, 2c + 1)    2: (g + 8, 2c)    3: (g + 8, 2c + 1)
#pragma once
#include "device.cuh"

#ifdef RUSTLLM_SIMULATOR

// Copies 16 bytes, or writes zeros where `present` is false, no later than the wait for its group.
DEVICE void copy_async_16(void* to, const void* from, bool present) {
  static const unsigned char zeros[16] = {};
  ::simulator::copy_later(to, present ? from : zeros, 16);
}
DEVICE void close_copy_group() { ++::simulator::lane->copy_group; }
// Waits for this thread's copies, but for those of the last `groups` groups.
template <int groups>
DEVICE void wait_for_copies() {
  ::simulator::wait_for_copies(groups);
}

struct Fragments {
  u32 left[4], right[2];
};

// Word `half` (bytes 16 * half..) of row `row` is spread over lanes 4 * row..: number k of a row of `T`s.
template <class T>
DEVICE T number_of(const u32 (&words)[4][2], int k) {
  constexpr int in_word = 4 / sizeof(T);
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(&words[k / in_word % 4][k / in_word / 4]) + k % in_word * sizeof(T),
              sizeof(T));
  return value;
}

// `sum` and eight products, as tensor cores of sm_80 add them (doi:10.7717/peerj-cs.330): all at once, each cut off below a
// 2^24th of the largest's power of two, and the result cut off, not rounded. Those of sm_90 keep more.
DEVICE float add_products(float sum, const float* left, const float* right) {
  constexpr int count = 8;
  auto exponent = [](float x) { return (int)(__float_as_uint(x) >> 23 & 0xff) - 127; };
  int largest = sum == 0.0f ? -400 : exponent(sum);
  float plain = sum;
  for (int k = 0; k < count; ++k) {
    plain += left[k] * right[k];
    if (left[k] != 0.0f && right[k] != 0.0f) largest = max(largest, exponent(left[k]) + exponent(right[k]));
  }
  if (!(fabsf(plain) < infinity()) || largest == -400) return plain;
  const double unit = ldexp(1.0, largest - 24), per_unit = ldexp(1.0, 24 - largest);
  i64 units = (i64)(sum * per_unit);
  for (int k = 0; k < count; ++k) units += (i64)((double)left[k] * right[k] * per_unit);
  double exact = units * unit;
  u64 bits;
  std::memcpy(&bits, &exact, sizeof bits);
  bits &= ~((1ull << 29) - 1);
  std::memcpy(&exact, &bits, sizeof exact);
  return (float)exact;
}
DEVICE int add_products(int sum, const int* left, const int* right) {
  for (int k = 0; k < 8; ++k) sum += left[k] * right[k];
  return sum;
}

template <class T, class Sum, class Convert>
DEVICE void simulate_mma(Sum (&sums)[4], const u32 (&left)[4], const u32 (&right)[2], Convert convert, const char* where) {
  constexpr int depth = 32 / sizeof(T);
  Fragments mine;
  std::memcpy(mine.left, left, sizeof left);
  std::memcpy(mine.right, right, sizeof right);
  auto all = ::simulator::exchange(~0u, mine, where);
  const u32 g = ::simulator::lane->index / 4, c = ::simulator::lane->index % 4;
  Sum rows[2][depth], cols[2][depth];
  for (int second = 0; second < 2; ++second) {
    u32 of_row[4][2], of_col[4][2];
    for (u32 from = 0; from < 4; ++from) {
      const auto row = ::simulator::value_of<Fragments>(all, g * 4 + from);
      const auto col = ::simulator::value_of<Fragments>(all, (2 * c + second) * 4 + from);
      for (int half = 0; half < 2; ++half) {
        of_row[from][half] = row.left[second + 2 * half];
        of_col[from][half] = col.right[half];
      }
    }
    for (int k = 0; k < depth; ++k) {
      rows[second][k] = convert(number_of<T>(of_row, k));
      cols[second][k] = convert(number_of<T>(of_col, k));
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < depth; k += 8) sums[i] = add_products(sums[i], rows[i / 2] + k, cols[i % 2] + k);
  }
}

DEVICE void mma(float (&sums)[4], const u32 (&left)[4], const u32 (&right)[2], f16) {
  simulate_mma<f16>(sums, left, right, [](f16 value) { return to_f32(value); }, "mma of f16");
}
DEVICE void mma(float (&sums)[4], const u32 (&left)[4], const u32 (&right)[2], bf16) {
  simulate_mma<bf16>(sums, left, right, [](bf16 value) { return to_f32(value); }, "mma of bf16");
}
DEVICE void mma(int (&sums)[4], const u32 (&left)[4], const u32 (&right)[2], i8) {
  simulate_mma<i8>(sums, left, right, [](i8 value) { return (int)value; }, "mma of i8");
}

#else

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE void copy_async_16(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(present ? 16 : 0)
               : "memory");
}
DEVICE void close_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups>
DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#define MMA(Sum, constraint, shape, types, T)                                                                    \
  DEVICE void mma(Sum(&sums)[4], const u32(&left)[4], const u32(&right)[2], T) {                                 \
    asm("mma.sync.aligned." shape ".row.col." types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "   \
                 "{%0, %1, %2, %3};"                                                                             \
                 : constraint(sums[0]), constraint(sums[1]), constraint(sums[2]), constraint(sums[3])            \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));        \
  }
MMA(float, "+f", "m16n8k16", "f32.f16.f16.f32", f16)
MMA(float, "+f", "m16n8k16", "f32.bf16.bf16.f32", bf16)
MMA(int, "+r", "m16n8k32", "s32.s8.s8.s32", i8)
#undef MMA

#endif
