// The first largest element of every row, NaN above all numbers: of runs of 8192 columns, then of those.
#include "device.cuh"

constexpr int kRun = 8192;

// Ascending keys are ascending values, zeros equal, NaN highest; of equals the first has the highest.
DEVICE u64 place_key(float value, int col) {
  const u32 bits = __float_as_uint(value + 0.0f);
  const u32 key = value != value ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
  return (u64)key << 32 | (u32)~col;
}

DEVICE u64 warp_max_key(u64 key) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) key = max(key, __shfl_xor_sync(~0u, key, distance));
  return key;
}

// grid (rows, runs): `best` is [rows][runs].
KERNEL(256) argmax_runs(Matrix x, u64* best) {
  __shared__ u64 of_warps[8];
  const float* row = x.row(blockIdx.x);
  const int end = min(x.cols, (int)(blockIdx.y + 1) * kRun);
  u64 key = 0;
  for (int col = blockIdx.y * kRun + threadIdx.x; col < end; col += 256) key = max(key, place_key(row[col], col));
  key = warp_max_key(key);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = key;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  key = warp_max_key(of_warps[threadIdx.x % 8]);
  if (threadIdx.x == 0) best[(i64)blockIdx.x * gridDim.y + blockIdx.y] = key;
}
EXPORT(argmax_runs)

// grid (rows), a warp each: the column as a number, and the element there.
KERNEL(32) argmax_rows(Matrix to, Matrix x, const u64* best, int runs) {
  u64 key = 0;
  for (int run = threadIdx.x; run < runs; run += 32) key = max(key, best[(i64)blockIdx.x * runs + run]);
  const int col = (int)~(u32)warp_max_key(key);
  if (threadIdx.x == 0) {
    to.row(blockIdx.x)[0] = (float)col;
    to.row(blockIdx.x)[1] = x.row(blockIdx.x)[col];
  }
}
EXPORT(argmax_rows)
