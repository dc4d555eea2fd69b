// Products of every row's heads with those of the buckets that distances fall in, in float32: what encoder_attention.cu looks up.
//
//   x [rows, heads * head_dim]                buckets   0 .. 63   64 .. 127
//   of_distances [buckets, heads * head_dim]  rows    +---------+---------+
//                                              0 .. 63 |  block  |         |    for each head: 128 threads, 8 rows x 4 buckets each
//                                            64 .. 127 |         |         |
//                                                      +---------+---------+
//   32 elements of 64 rows and of 64 buckets at a time are in shared memory, [element][row]
//
// The elements of a head are summed up in ascending order, whatever the number of rows and of buckets.
#include "device.cuh"

constexpr int THREADS = 128, SIDE = 64, DEPTH = 32;

// Brings elements `from .. from + DEPTH` of a head of SIDE rows to shared memory, and zeros for those that are not there. Eight
// elements of four rows are a warp's: whole sectors of global memory, and 32 banks.
DEVICE void load(float (*to)[SIDE + 4], Matrix rows, int first_row, int end_row, int column, int from, int head_dim) {
  for (int i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
    const int at = i / (8 * SIDE) * 8 + i % 8, row = i / 8 % SIDE;
    const bool present = first_row + row < end_row && from + at < head_dim;
    to[at][row] = present ? rows.row(first_row + row)[column + from + at] : 0.0f;
  }
}

// grid (row tiles, bucket tiles, heads). `to` is [rows, heads, num_buckets], of the buckets from `first` on.
KERNEL(128) distance_products(float* to, Matrix x, Matrix of_distances, int first, int num_buckets, int head_dim) {
  __shared__ __align__(16) float of_rows[DEPTH][SIDE + 4];
  __shared__ __align__(16) float of_buckets[DEPTH][SIDE + 4];
  const int first_row = blockIdx.x * SIDE, first_bucket = blockIdx.y * SIDE, column = blockIdx.z * head_dim;
  const int row = threadIdx.x / 16 * 8, bucket = threadIdx.x % 16 * 4;
  float sums[8][4] = {};
  for (int from = 0; from < head_dim; from += DEPTH) {
    load(of_rows, x, first_row, x.rows, column, from, head_dim);
    load(of_buckets, of_distances, first + first_bucket, first + num_buckets, column, from, head_dim);
    __syncthreads();
    const int depth = min(DEPTH, head_dim - from);
#pragma unroll 4
    for (int at = 0; at < depth; ++at) {
      const float4 low = *reinterpret_cast<const float4*>(&of_rows[at][row]);
      const float4 high = *reinterpret_cast<const float4*>(&of_rows[at][row + 4]);
      const float4 right = *reinterpret_cast<const float4*>(&of_buckets[at][bucket]);
      const float left[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums[i][0] = fmaf(left[i], right.x, sums[i][0]);
        sums[i][1] = fmaf(left[i], right.y, sums[i][1]);
        sums[i][2] = fmaf(left[i], right.z, sums[i][2]);
        sums[i][3] = fmaf(left[i], right.w, sums[i][3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (first_row + row + i >= x.rows) break;
    float* result = to + ((i64)(first_row + row + i) * gridDim.z + blockIdx.z) * num_buckets;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (first_bucket + bucket + j < num_buckets) result[first_bucket + bucket + j] = sums[i][j];
  }
}
EXPORT(distance_products)
