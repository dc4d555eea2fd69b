// Linear layers of a few rows: what they take is the time to read the weight.
//
//   block    16 (or 32) weight rows x 8 (or 16) rows of x, 8 warps, each with an eighth of K (cuda/gemm.cuh)
//
// An estimate, not a measurement, for bf16, up to eight rows, K = 4096 on an H200 (132 multiprocessors, 4.3 TB/s, 1.7 GHz):
//
//   in flight       2 blocks of 8 warps with 3 slabs of 16 x 128 bytes: 96 KB a multiprocessor, where a latency of 1 us asks
//                   for 33 KB
//   instructions    102 for a slab of 2 KB of the weight (sm_90a); at full bandwidth a slab comes every 107 cycles, which
//                   are 428 issue slots: 24 %. Of int4 in groups of 128, 207 for 1 KB, 97 %: there instructions are the limit,
//                   at some 70 to 80 % of the bandwidth; in groups of 32, 297
//   from L2         x again for every block, 64 KB beside 128 KB of the weight: 50 %
//   N = 4096        256 blocks, all at once on 264 places: 7.8 us of reading, about 2.5 us to start and to end: some 75 %
//   N = 28672       1792 blocks, 6.8 for each place: 55 us of reading, the ends of blocks overlap: some 85 to 90 %
//
// The rounding of x by a kernel of its own, about 2 us where kernels do not overlap, comes on top; one row has no need of it
// (linear_row.cu).
#include "linear.cuh"

// grid (ceil(tile rows / (16 * M)), ceil(rows / (8 * N))).
template <class T, int M, int N, int kStages>
DEVICE void linear_skinny(const LinearOperands& linear) {
  typedef SkinnyGemm<GemmFormat<T>, M, N, kStages> Gemm;
  DYNAMIC_SHARED(u8, shared);
  const int first_weight = blockIdx.x * M * 16, first_x = blockIdx.y * N * 8;
  Gemm::run(
      linear.gemm, shared, [&](int row) { return linear.weight_row(first_weight + row); },
      [&](int row) { return linear.x_row(first_x + row); });
  __syncthreads();
  const int rows = min(N * 8, linear.to.rows - first_x);
  for (int i = threadIdx.x; i < M * 16 * rows; i += kGemmThreads) {
    const int weight = i % (M * 16), x = i / (M * 16);
    if (linear.gated && weight / 16 % 2) continue;
    const auto sum = Gemm::sum_at(linear.gemm, shared, weight, x);
    const auto up = linear.gated ? Gemm::sum_at(linear.gemm, shared, weight + 16, x) : sum;
    linear.store<T>(linear.column(first_weight + weight), first_x + x, sum, up);
  }
}

#define SKINNY(T, format)                                                                               \
  KERNEL(kGemmThreads, 2) skinny_8x16_##format(LinearOperands linear) { linear_skinny<T, 1, 1, 4>(linear); } \
  EXPORT(skinny_8x16_##format)                                                                          \
  KERNEL(kGemmThreads) skinny_8x32_##format(LinearOperands linear) { linear_skinny<T, 2, 1, 2>(linear); }  \
  EXPORT(skinny_8x32_##format)                                                                          \
  KERNEL(kGemmThreads) skinny_16x32_##format(LinearOperands linear) { linear_skinny<T, 2, 2, 2>(linear); } \
  EXPORT(skinny_16x32_##format)
FOR_FORMATS(SKINNY)
