// The first largest element of every row, NaN above all numbers.
//
//   row   [ part 0 | part 1 | ... ]      argmax_parts: a block a part, its best (column, value) to parts[row][part]
//              \       |                 argmax_merge: a warp a row
//               [column, value]
#include "device.cuh"

struct Best {
  float value;
  int column;
};

// Whether `a` goes before `b`: larger, or NaN where `b` is none, or as large and further left.
DEVICE bool goes_before(Best a, Best b) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan != b_nan) return a_nan;
  if (!a_nan && a.value != b.value) return a.value > b.value;
  return a.column < b.column;
}

DEVICE Best warp_best(Best best) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) {
    const Best other = {__shfl_xor_sync(~0u, best.value, distance), __shfl_xor_sync(~0u, best.column, distance)};
    if (goes_before(other, best)) best = other;
  }
  return best;
}

// grid (rows, parts of 8192 columns)
KERNEL(256) argmax_parts(float2* parts, Matrix x) {
  __shared__ Best warps[8];
  const float* row = x.row(blockIdx.x);
  const int end = min(x.cols, (int)(blockIdx.y + 1) * 8192);
  Best best = {-infinity(), 0x7fffffff};
  for (int col = blockIdx.y * 8192 + threadIdx.x; col < end; col += 256) {
    const Best here = {row[col], col};
    if (goes_before(here, best)) best = here;
  }
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = warps[threadIdx.x % 8];
  best = warp_best(best);
  if (threadIdx.x == 0) parts[(i64)blockIdx.x * gridDim.y + blockIdx.y] = float2{(float)best.column, best.value};
}
EXPORT(argmax_parts)

// grid (rows)
KERNEL(32) argmax_merge(Matrix to, const float2* parts, int num_parts) {
  Best best = {-infinity(), 0x7fffffff};
  for (int part = threadIdx.x; part < num_parts; part += 32) {
    const float2 found = parts[(i64)blockIdx.x * num_parts + part];
    const Best here = {found.y, (int)found.x};
    if (goes_before(here, best)) best = here;
  }
  best = warp_best(best);
  if (threadIdx.x == 0) {
    to.row(blockIdx.x)[0] = (float)best.column;
    to.row(blockIdx.x)[1] = best.value;
  }
}
EXPORT(argmax_merge)
