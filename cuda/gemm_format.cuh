// What a product is made of, format by format: a slab of K, as it lies in shared memory, and a warp's product over it.
//
//                  columns of a slab   bytes of a row   of a row    a warp's product of 16 weight rows and 8 rows of x
//                  of a slab           of the weight    of x
//   float          32                  128              128         fmaf, column after column
//   f16, bf16      64                  128              128         mma of 16 columns, float32 sums
//   i8             128                 128              128         mma of 32 columns, exact
//   Int4<group>    128                 64               128         mma of 32 columns, exact within a group; groups are
//                                                                   scaled and added in float32, in ascending order
//
// A lane takes 16 bytes of a row at once, which are its fragments of two mma: columns are multiplied in another order than
// they lie in, the same one on both sides. Rows of a slab are 16-byte chunks, exchanged so that no two lanes that load at
// the same time want the same banks.
#pragma once
#include "mma.cuh"

constexpr int kSlabBytes = 128;  // of a row of x

// Where a chunk of a slab's row lies, with `bytes` to a row.
template <int bytes>
DEVICE int chunk_at(int row, int chunk) {
  static_assert(bytes == 128 || bytes == 64, "the two widths of slabs");
  if (bytes == 64) return row * 64 + (chunk ^ row / 2 % 4) * 16;
  return row * 128 + (chunk ^ (row % 2 * 4 + row / 2 % 2 * 2 + row / 4 % 2)) * 16;
}

template <class T>
DEVICE T loaded(const u8* shared, int at) {
  return *reinterpret_cast<const T*>(shared + at);
}

// Scales of a weight: of its rows (int8), or [rows][groups] of them with zero points (int4). rust/cuda/src/linear.rs has the same.
struct WeightScales {
  const void* scales;
  const u8* zeros;
  int groups, reserved;
};

// Rows of numbers that the tensor cores multiply as they are: f16, bf16, i8.
template <class T, class Number>
struct MmaFormat {
  typedef Number Sum;
  static constexpr bool kExact = sizeof(T) == 1;  // whether the order of additions is of no consequence
  static constexpr int kWeightBytes = 128;

  // What a lane needs of scales for the products of a slab: nothing here.
  template <int M>
  struct Scales {
    DEVICE void load(const WeightScales&, const int (&)[M][2], int) {}
  };

  // Adds the products of 16 * M weight rows and 8 * N rows of x over a slab.
  template <int M, int N>
  DEVICE static void multiply(Sum (&sums)[M][N][4], const u8* weights, const u8* x, const Scales<M>&) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 right[N];
#pragma unroll
      for (int n = 0; n < N; ++n) right[n] = loaded<uint4>(x, chunk_at<128>(n * 8 + g, half * 4 + c));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const uint4 upper = loaded<uint4>(weights, chunk_at<128>(m * 16 + g, half * 4 + c));
        const uint4 lower = loaded<uint4>(weights, chunk_at<128>(m * 16 + 8 + g, half * 4 + c));
        const u32 first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (int n = 0; n < N; ++n) mma(sums[m][n], first, {right[n].x, right[n].y}, T());
#pragma unroll
        for (int n = 0; n < N; ++n) mma(sums[m][n], second, {right[n].z, right[n].w}, T());
      }
    }
  }
};

template <class T>
struct GemmFormat;
template <>
struct GemmFormat<f16> : MmaFormat<f16, float> {};
template <>
struct GemmFormat<bf16> : MmaFormat<bf16, float> {};
template <>
struct GemmFormat<i8> : MmaFormat<i8, int> {};

template <>
struct GemmFormat<float> {
  typedef float Sum;
  static constexpr bool kExact = false;
  static constexpr int kWeightBytes = 128;

  template <int M>
  using Scales = MmaFormat<f16, float>::Scales<M>;

  template <int M, int N>
  DEVICE static void multiply(float (&sums)[M][N][4], const u8* weights, const u8* x, const Scales<M>&) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int chunk = 0; chunk < 8; ++chunk) {
      float4 right[N][2];
#pragma unroll
      for (int n = 0; n < N; ++n)
        for (int i = 0; i < 2; ++i) right[n][i] = loaded<float4>(x, chunk_at<128>(n * 8 + c * 2 + i, chunk));
#pragma unroll
      for (int m = 0; m < M; ++m)
        for (int i = 0; i < 2; ++i) {
          const float4 left = loaded<float4>(weights, chunk_at<128>(m * 16 + i * 8 + g, chunk));
#pragma unroll
          for (int n = 0; n < N; ++n)
            for (int j = 0; j < 2; ++j) {
              float& sum = sums[m][n][i * 2 + j];
              sum = fmaf(left.x, right[n][j].x, sum);
              sum = fmaf(left.y, right[n][j].y, sum);
              sum = fmaf(left.z, right[n][j].z, sum);
              sum = fmaf(left.w, right[n][j].w, sum);
            }
        }
    }
  }
};

template <int group_size>
struct Int4 {};

// Codes of four bits, the even column in the low half of a byte. A lane takes four bytes of a run of 32 columns: the even
// columns of eight as one word, the odd ones as the other, and codes of x lie in that order (rust/cuda/src/linear.rs).
template <int group_size>
struct GemmFormat<Int4<group_size>> {
  typedef float Sum;
  static constexpr bool kExact = false;
  static constexpr int kWeightBytes = 64;
  static constexpr int kGroups = 128 / group_size, kRuns = group_size / 32;

  template <int M>
  struct Scales {
    f16 scales[M][2][kGroups];
    u8 zeros[M][2][kGroups];

    // rows: of the weight, those of this lane. A slab past the last has the last one's. They are loaded once the next copies are
    // under way, which would wait for them otherwise.
    DEVICE void load(const WeightScales& of, const int (&rows)[M][2], int slab) {
#pragma unroll
      for (int m = 0; m < M; ++m)
        for (int i = 0; i < 2; ++i)
          for (int group = 0; group < kGroups; ++group) {
            // The last slab may have fewer groups; what is multiplied by their scales is zero.
            const i64 at = (i64)rows[m][i] * of.groups + min(slab * kGroups + group, of.groups - 1);
            scales[m][i][group] = static_cast<const f16*>(of.scales)[at];
            zeros[m][i][group] = of.zeros[at];
          }
    }
  };

  // Four codes, the low halves of a word's bytes, less their zero point: `shifts` has 128 - zero point in every byte, so that
  // no byte borrows from the next.
  DEVICE static u32 centred(u32 codes, u32 shifts) { return ((codes & 0x0f0f0f0fu) + shifts) ^ 0x80808080u; }

  template <int M, int N>
  DEVICE static void multiply(float (&sums)[M][N][4], const u8* weights, const u8* x, const Scales<M>& scales) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      uint2 right[kRuns][N];
#pragma unroll
      for (int i = 0; i < kRuns; ++i)
        for (int n = 0; n < N; ++n)
          right[i][n] = loaded<uint2>(x, chunk_at<128>(n * 8 + g, (group * kRuns + i) * 2 + c / 2) + c % 2 * 8);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const u32 upper_shifts = (128u - scales.zeros[m][0][group]) * 0x01010101u;
        const u32 lower_shifts = (128u - scales.zeros[m][1][group]) * 0x01010101u;
        int exact[N][4] = {};
#pragma unroll
        for (int i = 0; i < kRuns; ++i) {
          const u32 upper = loaded<u32>(weights, chunk_at<64>(m * 16 + g, group * kRuns + i) + c * 4);
          const u32 lower = loaded<u32>(weights, chunk_at<64>(m * 16 + 8 + g, group * kRuns + i) + c * 4);
          const u32 left[4] = {centred(upper, upper_shifts), centred(lower, lower_shifts), centred(upper >> 4, upper_shifts),
                               centred(lower >> 4, lower_shifts)};
#pragma unroll
          for (int n = 0; n < N; ++n) mma(exact[n], left, {right[i][n].x, right[i][n].y}, i8());
        }
#pragma unroll
        for (int n = 0; n < N; ++n)
          for (int i = 0; i < 4; ++i)
            sums[m][n][i] = fmaf(to_f32(scales.scales[m][i / 2][group]), (float)exact[n][i], sums[m][n][i]);
      }
    }
  }
};
