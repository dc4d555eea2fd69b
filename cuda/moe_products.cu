// The two products of the experts: what a linear layer's are, a tile of choices at a time, each with its expert's weight.
//
//   first     inner   [choice] = activation(gate) * up, of row choice / top_k of x
//   second    outputs [choice], of row choice of inner
//
// A row's bits are those of cuda/gemm.cuh, so they depend neither on the tile nor on who shares it.
#include "linear.cuh"
#include "moe.cuh"

struct MoeOperands {
  LinearOperands linear;  // but for the addresses that are the expert's
  const ExpertWeights* experts;
  const Tile* tiles;
  const u32* order;
  Gate gate;
  int choices_of_row;  // choices that share a row of x
  int reserved;

  DEVICE LinearOperands of_expert(int expert) const {
    const ExpertWeight& weight = linear.gated ? experts[expert].gate_up : experts[expert].down;
    LinearOperands result = linear;
    result.gemm.weights = static_cast<const u8*>(weight.codes);
    result.gemm.scales.scales = weight.scales;
    result.gemm.scales.zeros = weight.zeros;
    result.bias = weight.bias;
    return result;
  }

  // `sum` is that of the column for a choice, or of its gate, and then `up` that of the other half.
  template <class T, class Sum>
  DEVICE void store(const LinearOperands& linear, int col, u32 choice, Sum sum, Sum up) const {
    if (col >= linear.to.cols) return;
    const int x = choice / choices_of_row;
    float result = linear.value<T>(sum, col, x);
    if (linear.gated) result = gate(result, linear.value<T>(up, col + linear.to.cols, x));
    linear.to.row(choice)[col] = result;
  }
};

// grid (tiles, ceil(tile rows / (16 * M))): tiles of at most 8 * N choices.
template <class T, int M, int N, int kStages>
DEVICE void moe_skinny(const MoeOperands& moe) {
  typedef SkinnyGemm<GemmFormat<T>, M, N, kStages> Gemm;
  DYNAMIC_SHARED(u8, shared);
  const Tile tile = moe.tiles[blockIdx.x];
  if (tile.rows == 0) return;
  const LinearOperands linear = moe.of_expert(tile.expert);
  const u32* choices = moe.order + tile.first;
  const int first_weight = blockIdx.y * M * 16;
  Gemm::run(
      linear.gemm, shared, [&](int row) { return linear.weight_row(first_weight + row); },
      [&](int row) { return choices[min(row, tile.rows - 1)] / moe.choices_of_row; });
  __syncthreads();
  for (int i = threadIdx.x; i < M * 16 * tile.rows; i += kGemmThreads) {
    const int weight = i % (M * 16), x = i / (M * 16);
    if (linear.gated && weight / 16 % 2) continue;
    const auto sum = Gemm::sum_at(linear.gemm, shared, weight, x);
    const auto up = linear.gated ? Gemm::sum_at(linear.gemm, shared, weight + 16, x) : sum;
    moe.store<T>(linear, linear.column(first_weight + weight), choices[x], sum, up);
  }
}

// grid (tiles, ceil(tile rows / tile's)).
template <class T, int M, int N, int kWarpRows, int kWarpCols, int kStages>
DEVICE void moe_tiled(const MoeOperands& moe) {
  typedef TiledGemm<GemmFormat<T>, M, N, kWarpRows, kWarpCols, kStages> Gemm;
  typedef typename Gemm::Sum Sum;
  DYNAMIC_SHARED(u8, shared);
  const Tile tile = moe.tiles[blockIdx.x];
  if (tile.rows == 0) return;
  const LinearOperands linear = moe.of_expert(tile.expert);
  const u32* choices = moe.order + tile.first;
  const int first_weight = blockIdx.y * Gemm::kWeights;
  const bool idle =
      Gemm::first_x() >= tile.rows || linear.column(first_weight + Gemm::first_weight()) >= linear.to.cols;
  Sum totals[M][N][4] = {};
  Gemm::run(
      linear.gemm, shared, 0, linear.gemm.slabs, idle, [&](int row) { return linear.weight_row(first_weight + row); },
      [&](int row) { return choices[min(row, tile.rows - 1)] / moe.choices_of_row; }, totals);
  const Sum* sums = Gemm::leave(shared, totals);
  __syncthreads();
  for (int i = threadIdx.x; i < Gemm::kWeights * tile.rows; i += kGemmThreads) {
    const int tile_row = first_weight + i % Gemm::kWeights, row = i / Gemm::kWeights;
    if (linear.gated && tile_row / 16 % 2) continue;
    const Sum* sum = sums + row * Gemm::kSumStride + i % Gemm::kWeights;
    moe.store<T>(linear, linear.column(tile_row), choices[row], *sum, linear.gated ? sum[16] : Sum());
  }
}

#define MOE(T, format)                                                                                         \
  KERNEL(kGemmThreads, 2) moe_skinny_8x32_##format(MoeOperands moe) { moe_skinny<T, 2, 1, 2>(moe); }             \
  EXPORT(moe_skinny_8x32_##format)                                                                             \
  KERNEL(kGemmThreads) moe_tiled_64x128_##format(MoeOperands moe) { moe_tiled<T, 2, 4, 4, 2, 4>(moe); }          \
  EXPORT(moe_tiled_64x128_##format)
FOR_FORMATS(MOE)
