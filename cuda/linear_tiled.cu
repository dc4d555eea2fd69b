// Linear layers of many rows, in tiles; where the tiles are too few for all of the device, a block for each part of K too.
#include "linear.cuh"

// grid (ceil(rows / tile's), ceil(tile rows / tile's), 1 or parts).
template <class T, int M, int N, int kWarpRows, int kWarpCols, int kStages>
DEVICE void linear_tiled(const LinearOperands& linear) {
  typedef TiledGemm<GemmFormat<T>, M, N, kWarpRows, kWarpCols, kStages> Gemm;
  typedef typename Gemm::Sum Sum;
  DYNAMIC_SHARED(u8, shared);
  const int first_x = blockIdx.x * Gemm::kRows, first_weight = blockIdx.y * Gemm::kWeights;
  const bool split = gridDim.z > 1;
  const int first = split ? blockIdx.z * linear.gemm.part_slabs : 0;
  const int end = split ? min(linear.gemm.slabs, first + linear.gemm.part_slabs) : linear.gemm.slabs;
  const bool idle = first_x + Gemm::first_x() >= linear.to.rows ||
                    linear.column(first_weight + Gemm::first_weight()) >= linear.to.cols;
  Sum totals[M][N][4] = {};
  Gemm::run(
      linear.gemm, shared, first, end, idle, [&](int row) { return linear.weight_row(first_weight + row); },
      [&](int row) { return linear.x_row(first_x + row); }, totals);
  const Sum* sums = Gemm::leave(shared, totals);
  __syncthreads();
  Sum* part_sums = static_cast<Sum*>(linear.part_sums) + (i64)blockIdx.z * linear.to.rows * linear.weight_rows;
  const int rows = min(Gemm::kRows, linear.to.rows - first_x);
  for (int i = threadIdx.x; i < Gemm::kWeights * rows; i += kGemmThreads) {
    const int tile_row = first_weight + i % Gemm::kWeights, row = i / Gemm::kWeights;
    const int col = linear.column(tile_row);
    const Sum* sum = sums + row * Gemm::kSumStride + i % Gemm::kWeights;
    if (col >= linear.to.cols) continue;
    if (split) {
      part_sums[(i64)(first_x + row) * linear.weight_rows + linear.weight_row(tile_row)] = *sum;
    } else if (!linear.gated) {
      linear.store<T>(col, first_x + row, *sum, Sum());
    } else if (tile_row / 16 % 2 == 0) {
      linear.store<T>(col, first_x + row, *sum, sum[16]);
    }
  }
}

#define TILED_64X128(T, format)                                                                                  \
  KERNEL(kGemmThreads) tiled_64x128_##format(LinearOperands linear) { linear_tiled<T, 2, 4, 4, 2, 4>(linear); }  \
  EXPORT(tiled_64x128_##format)
FOR_FORMATS(TILED_64X128)

// The other formats have too little room in registers.
#define TILED_128X128(T, format)                                                                                  \
  KERNEL(kGemmThreads) tiled_128x128_##format(LinearOperands linear) { linear_tiled<T, 4, 4, 2, 4, 3>(linear); }  \
  EXPORT(tiled_128x128_##format)
TILED_128X128(f16, f16)
TILED_128X128(bf16, bf16)
TILED_128X128(i8, int8)

// The sums of parts: grid (rows, ceil(columns / 1024)).
template <class T>
DEVICE void sum_parts(const LinearOperands& linear) {
  typedef typename GemmFormat<T>::Sum Sum;
  const i64 part = (i64)linear.to.rows * linear.weight_rows;
  const Sum* row = static_cast<const Sum*>(linear.part_sums) + (i64)blockIdx.x * linear.weight_rows;
  auto sum_at = [&](int col) {
    Sum sum = 0;
    for (int i = 0; i * linear.gemm.part_slabs < linear.gemm.slabs; ++i) sum += row[i * part + col];
    return sum;
  };
  const int end = min(linear.to.cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += kGemmThreads)
    linear.store<T>(col, blockIdx.x, sum_at(col), linear.gated ? sum_at(col + linear.to.cols) : Sum());
}

KERNEL(kGemmThreads) sum_parts_dense(LinearOperands linear) { sum_parts<float>(linear); }
EXPORT(sum_parts_dense)
KERNEL(kGemmThreads) sum_parts_int8(LinearOperands linear) { sum_parts<i8>(linear); }
EXPORT(sum_parts_int8)
KERNEL(kGemmThreads) sum_parts_int4(LinearOperands linear) { sum_parts<Int4<32>>(linear); }
EXPORT(sum_parts_int4)
