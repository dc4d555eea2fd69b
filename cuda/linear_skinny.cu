// Linear layers of a few rows: what they take is the time to read the weight.
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
  KERNEL(kGemmThreads) skinny_8x16_##format(LinearOperands linear) { linear_skinny<T, 1, 1, 4>(linear); }  \
  EXPORT(skinny_8x16_##format)                                                                          \
  KERNEL(kGemmThreads) skinny_8x32_##format(LinearOperands linear) { linear_skinny<T, 2, 1, 2>(linear); }  \
  EXPORT(skinny_8x32_##format)                                                                          \
  KERNEL(kGemmThreads) skinny_16x32_##format(LinearOperands linear) { linear_skinny<T, 2, 2, 2>(linear); } \
  EXPORT(skinny_16x32_##format)
FOR_FORMATS(SKINNY)
