// A linear layer of one row: every block makes of x what the weight takes by itself, so that no kernel goes before this one.
//
//   block    16 (or 32) weight rows, 8 warps, each with an eighth of K (cuda/gemm.cuh)
//   shared   | stages of part 0 | of part 1 | .. | x, slab after slab | seven slabs more |
//
// Slabs of the weight are on their way while x is rounded. The products are those of eight rows of x, whose bits are the same
// as from the other kernels. For the seven rows that there are not, a slab's lanes read the next slabs of the one there is:
// what comes of them is in columns that nobody looks at.
//
// An estimate, as in linear_skinny.cu, for bf16 and K = 4096: x is read as 16 KB beside 128 KB of the weight, where the skinny
// kernel copies the row eight times over, 64 KB; 73 KB of shared memory in place of 96. The row comes in one round of loads, some
// 0.3 us while the first slabs are under way.
#include "linear.cuh"
#include "linear_input.cuh"

// Writes what the weight takes of x to shared memory; the scale of codes.
template <class T>
DEVICE float take_row(T* to, const Matrix& x, int slabs) {
  round_row(to, x.data, x.cols, 0, slabs * kSlabBytes / (int)sizeof(T));
  return 1.0f;
}
DEVICE float take_row(i8* to, const Matrix& x, int slabs) {
  return quantize_row(to, x.data, x.cols, slabs * kSlabBytes, false);
}
template <int group_size>
DEVICE float take_row(Int4<group_size>* to, const Matrix& x, int slabs) {
  return quantize_row(reinterpret_cast<i8*>(to), x.data, x.cols, slabs * kSlabBytes, true);
}

template <class T, int M, int kStages>
struct RowGemm {
  typedef GemmFormat<T> Format;
  typedef typename Format::Sum Sum;
  static constexpr int kStageBytes = M * 16 * Format::kWeightBytes, kRingBytes = kStages * kStageBytes;
  static_assert(kRingBytes >= M * 16 * (int)sizeof(Sum), "sums take the ring's place");

  // The sums of this warp's part are left where its stages were. `take` makes x, of slabs from `x` on, for all warps.
  template <class WeightRow, class Take>
  DEVICE static void run(const GemmOperands& operands, u8* shared, const u8* x, WeightRow weight_row, Take take) {
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int first = min(operands.slabs, part * operands.part_slabs), end = min(operands.slabs, first + operands.part_slabs);
    u8* ring = shared + part * kRingBytes;
    const SlabCopier<M * 16, Format::kWeightBytes, 32> weights(operands.weights, operands.weight_stride, lane, weight_row);
    auto fetch = [&](int slab) {
      if (slab < end) weights.copy(ring + (u32)(slab - first) % kStages * kStageBytes, slab);
      close_copy_group();
    };
    int rows[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
      for (int i = 0; i < 2; ++i) rows[m][i] = weight_row(m * 16 + i * 8 + lane / 4);
#pragma unroll
    for (int ahead = 0; ahead < kStages - 1; ++ahead) fetch(first + ahead);
    typename Format::template Scales<M> scales, next_scales;
    next_scales.load(operands.scales, rows, first);
    take();
    __syncthreads();
    Sum sums[M][1][4] = {};
    for (int slab = first; slab < end; ++slab) {
      scales = next_scales;
      wait_for_copies<kStages - 2>();
      __syncwarp();  // of all lanes: their copies are there, and they are done with the stage that is filled next
      fetch(slab + kStages - 1);
      next_scales.load(operands.scales, rows, slab + 1);
      Format::multiply(sums, ring + (u32)(slab - first) % kStages * kStageBytes, x + slab * kSlabBytes, scales);
    }
    __syncwarp();
    if (first < end && lane % 4 == 0) leave(reinterpret_cast<Sum*>(ring), sums);
  }

  // Of the products with eight rows, those with the first.
  DEVICE static void leave(Sum* to, const Sum (&sums)[M][1][4]) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int m = 0; m < M; ++m) to[m * 16 + g] = sums[m][0][0], to[m * 16 + 8 + g] = sums[m][0][2];
  }

  // The sum of the parts, once every warp has come to a barrier after run.
  DEVICE static Sum sum_at(const GemmOperands& operands, const u8* shared, int weight) {
    Sum sum = 0;
    for (int part = 0; part < kParts && part * operands.part_slabs < operands.slabs; ++part)
      sum += reinterpret_cast<const Sum*>(shared + part * kRingBytes)[weight];
    return sum;
  }
};

// grid (ceil(tile rows / (16 * M))).
template <class T, int M, int kStages>
DEVICE void linear_row(LinearOperands linear, const Matrix& x) {
  typedef RowGemm<T, M, kStages> Gemm;
  DYNAMIC_SHARED(u8, shared);
  __shared__ float scale;
  u8* taken = shared + kParts * Gemm::kRingBytes;
  const int first = blockIdx.x * M * 16;
  Gemm::run(
      linear.gemm, shared, taken, [&](int row) { return linear.weight_row(first + row); },
      [&] {
        const float own = take_row(reinterpret_cast<T*>(taken), x, linear.gemm.slabs);
        if (threadIdx.x == 0) scale = own;
      });
  __syncthreads();
  const int weight = threadIdx.x;
  if (weight >= M * 16 || (linear.gated && weight / 16 % 2)) return;
  linear.x_scales = &scale;
  const auto sum = Gemm::sum_at(linear.gemm, shared, weight);
  const auto up = linear.gated ? Gemm::sum_at(linear.gemm, shared, weight + 16) : sum;
  linear.store<T>(linear.column(first + weight), 0, sum, up);
}

#define ROW(T, format)                                                                                         \
  KERNEL(kGemmThreads, 2) row_16_##format(LinearOperands linear, Matrix x) { linear_row<T, 1, 4>(linear, x); } \
  EXPORT(row_16_##format)                                                                                      \
  KERNEL(kGemmThreads) row_32_##format(LinearOperands linear, Matrix x) { linear_row<T, 2, 2>(linear, x); }    \
  EXPORT(row_32_##format)
FOR_FORMATS(ROW)
