// What the sampler's kernels share. Every number here is that of rust/engine/src/sampler, bit for bit, so that a token is the
// same whichever of the two drew it: the exponential is written out, nothing is contracted, and sums that round have an order.
#pragma once
#include "device.cuh"

constexpr int kChunk = 128;         // tokens of a chunk, a warp's work
constexpr int kSpan = 8192;         // tokens of a block of the kernels that a row has several blocks of
constexpr int kDrawBlock = 1024;    // tokens whose weights are summed together: rust/engine/src/sampler/truncation.rs
constexpr int kSumLanes = 8;        // partial sums of those: rust/engine/src/sampler/softmax.rs
constexpr int kDigitBits = 10;      // of a weight, looked at together by top_p
constexpr int kBuckets = 1 << kDigitBits;

// The words of rust/ops/src/sampling.rs.
struct SamplingRow {
  u64 seed, position;
  float inverse_temperature;  // 0: greedy
  float top_p, min_p;
  u32 top_k;                  // 0: all
};

// Products that no compiler makes one operation of with the sum after them.
#ifdef RUSTLLM_SIMULATOR
DEVICE float product(float a, float b) { return a * b; }
DEVICE double product(double a, double b) { return a * b; }
#else
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE double product(double a, double b) { return __dmul_rn(a, b); }
#endif

// e^x for x <= 0; exactly 1 at 0 and 0 below -86.
DEVICE float exponential(float x) {
  const float round = 12582912.0f, ln2_high = 355.0f / 512.0f, ln2_low = (float)(0.693147180559945309417232121458 - 355.0 / 512.0);
  const float coefficients[7] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
  const float clamped = x > -86.0f ? x : -86.0f;
  const float shifted = product(clamped, 1.44269504088896340736f) + round;
  const float n = shifted - round;
  const float r = (clamped - product(n, ln2_high)) - product(n, ln2_low);
  float series = 1.0f / 5040.0f;
#pragma unroll
  for (int i = 0; i < 7; ++i) series = product(series, r) + coefficients[i];
  const u32 exponent = __float_as_uint(shifted) - __float_as_uint(round) + 127;
  const float value = product(series, __uint_as_float(exponent << 23));
  return x < -86.0f ? 0.0f : value;
}

// The sum of up to `n` values, value(0) .. value(n - 1), of eight threads in a row, their lanes' sums added as pairs. All of
// the warp calls it; the result is for each of the eight.
template <class V>
DEVICE double sum_of_lanes(int n, V value) {
  double sum = 0.0;
  for (int i = threadIdx.x % kSumLanes; i < n; i += kSumLanes) sum += (double)value(i);
#pragma unroll
  for (int distance = 1; distance < kSumLanes; distance <<= 1) sum += __shfl_xor_sync(~0u, sum, distance);
  return sum;
}

// Ascending keys are ascending numbers, -0 below 0; 0 is no number's but a NaN's.
DEVICE u32 ascending_key(float value) {
  const u32 bits = __float_as_uint(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE float number_of_key(u32 key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

DEVICE int chunks_of(int n) { return (n + kChunk - 1) / kChunk; }

// A weight's digit, and its mantissa as an integer. Weights of a bucket of the first digit have one exponent, so the sum of
// their mantissas is exact in any order.
DEVICE u32 digit_of(float weight, int shift) { return __float_as_uint(weight) >> shift & (kBuckets - 1); }
DEVICE u64 mantissa_of(float weight) { return weight > 0.0f ? (__float_as_uint(weight) & 0x7fffffu) | 0x800000u : 0u; }

// A number uniform in [0, 1) with 53 random bits: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011).
DEVICE double uniform(u64 seed, u64 position) {
  u32 counter[4] = {(u32)position, (u32)(position >> 32), 0, 0}, key[2] = {(u32)seed, (u32)(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const u64 left = (u64)0xD2511F53u * counter[0], right = (u64)0xCD9E8D57u * counter[2];
    const u32 next[4] = {(u32)(right >> 32) ^ counter[1] ^ key[0], (u32)right, (u32)(left >> 32) ^ counter[3] ^ key[1],
                         (u32)left};
    for (int i = 0; i < 4; ++i) counter[i] = next[i];
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const u64 bits = (u64)counter[0] | (u64)counter[1] << 32;
  return product((double)(bits >> 11), 1.0 / 9007199254740992.0);
}

// The largest of a row's chunks, for every thread of the block.
DEVICE float largest_of_chunks(const float* chunks, int num_chunks, float* scratch) {
  float largest = -infinity();
  for (int chunk = threadIdx.x; chunk < num_chunks; chunk += blockDim.x) largest = fmaxf(largest, chunks[chunk]);
  return block_max(largest, scratch);
}

// Calls put(i, place) for the i below n that are kept, places in their order; returns how many there are. The whole block of
// 1024 calls it; `scratch` has a place for each warp.
template <class K, class P>
DEVICE int compact(int n, K keeps, P put, int* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int total = 0;
  for (int first = 0; first < n; first += 1024) {
    const int i = first + threadIdx.x;
    const bool kept = i < n && keeps(i);
    const u32 mask = __ballot_sync(~0u, kept);
    if (lane == 0) scratch[warp] = __popc(mask);
    __syncthreads();
    int sum = scratch[lane];
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
      const int other = __shfl_up_sync(~0u, sum, distance);
      if (lane >= distance) sum += other;
    }
    const int before = warp ? __shfl_sync(~0u, sum, warp - 1) : 0;
    if (kept) put(i, total + before + __popc(mask & ((1u << lane) - 1)));
    total += __shfl_sync(~0u, sum, 31);
    __syncthreads();
  }
  return total;
}

constexpr int kSelectBins = 2048;

// The k-th largest of n numbers, k of 1 .. n, without a sort: eleven, eleven and ten bits after one another, a
// radix sort that follows one bin only. key(i) of 0 counts as no number. The whole block of 1024 calls it.
template <class K>
DEVICE float kth_largest(int n, int k, K key, u32* bins, int* scratch) {
  u32 prefix = 0, seen = 0;
  for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift == 10 ? 0 : -1) {
    const u32 last = shift ? kSelectBins - 1 : 1023;
    for (int bin = threadIdx.x; bin < kSelectBins; bin += 1024) bins[bin] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += 1024) {
      const u32 value = key(i);
      if (value && (value & seen) == prefix) atomicAdd(bins + (value >> shift & last), 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      // Lane 0 has the highest bins.
      const int top = kSelectBins - 1 - (int)threadIdx.x * (kSelectBins / 32);
      int mine = 0;
      for (int i = 0; i < kSelectBins / 32; ++i) mine += bins[top - i];
      int sum = mine;
      for (int distance = 1; distance < 32; distance <<= 1) {
        const int other = __shfl_up_sync(~0u, sum, distance);
        if ((int)threadIdx.x >= distance) sum += other;
      }
      int before = sum - mine;
      if (before < k && k <= sum) {
        int bin = top;
        for (; before + (int)bins[bin] < k; --bin) before += bins[bin];
        scratch[0] = bin;
        scratch[1] = k - before;
      }
    }
    __syncthreads();
    prefix |= (u32)scratch[0] << shift;
    seen |= last << shift;
    k = scratch[1];
    __syncthreads();
  }
  return number_of_key(prefix);
}

// The sum of n numbers, one after another, of which zeros are passed over. For a whole warp.
DEVICE double sum_in_order(const double* values, int n) {
  double sum = 0.0;
  for (int first = 0; first < n; first += 32) {
    const double value = first + (int)(threadIdx.x % 32) < n ? values[first + threadIdx.x % 32] : 0.0;
    for (u32 left = __ballot_sync(~0u, value != 0.0); left; left &= left - 1) sum += __shfl_sync(~0u, value, __ffs(left) - 1);
  }
  return sum;
}

// The chunks of a row that may have one of its k largest logits, in order: as many chunks as k reach the k-th largest maximum,
// so as many logits do. Returns how many they are.
DEVICE int list_chunks(u32* list, const float* chunks, int num_chunks, int k, u32* bins, int* scratch) {
  float bound = -infinity();
  if (k <= num_chunks) bound = kth_largest(num_chunks, k, [&](int i) { return ascending_key(chunks[i]); }, bins, scratch);
  const int listed =
      compact(num_chunks, [&](int i) { return chunks[i] >= bound; }, [&](int i, int to) { list[to] = i; }, scratch);
  __syncthreads();
  return listed;
}

// The tokens of listed chunks, one after another; past the vocabulary there are none.
struct ListedTokens {
  const u32* list;
  int listed;
  const float* row;
  int vocabulary;

  DEVICE int count() const { return listed * kChunk; }
  DEVICE int token(int i) const { return (int)list[i / kChunk] * kChunk + i % kChunk; }
  DEVICE bool exists(int i) const { return token(i) < vocabulary; }
  DEVICE float logit(int i) const { return row[token(i)]; }
  // The k-th largest logit.
  DEVICE float kth(int k, u32* bins, int* scratch) const {
    return kth_largest(count(), k, [&](int i) { return exists(i) ? ascending_key(logit(i)) : 0u; }, bins, scratch);
  }
};
