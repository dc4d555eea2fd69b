// Mixture of experts: each row goes through the few experts chosen for it, and each expert takes its rows together.
//
//   group       choices sorted by expert, and tiles of them          moe.cuh has the picture
//   products    inner, then outputs: a row a choice                  moe_products.cu
//   combine     result: of a row, the sum of weight * outputs[choice] in the order of the experts' numbers
//
// The routing stays on the device: grids cover the most tiles there can be, and empty ones return. What a choice's products
// are depends on its row and its expert alone: not on its tile, so neither on the order in which atomics dealt out places.
//
// A choice whose expert there is not (NaN, negative, too large) is in no tile, and makes its whole row NaN.
#include "moe.cuh"

// A choice's expert, or -1 if there is no such expert.
DEVICE int expert_of(float number, int num_experts) {
  return number >= 0.0f && number < (float)num_experts ? (int)number : -1;
}

// The sum of a block's values before this lane's, of one warp; `total` is that of all 32.
DEVICE int warp_sum_before(int value, int& total) {
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance <<= 1) {
    const int other = __shfl_up_sync(~0u, sum, distance);
    if ((int)(threadIdx.x % 32) >= distance) sum += other;
  }
  total = __shfl_sync(~0u, sum, 31);
  return sum - value;
}

// One block. `order` has room for every choice; `tiles` for `num_tiles` of at most `tile_rows`, of which those that are not
// needed have no rows.
KERNEL(1024) moe_group(Matrix chosen, int num_experts, int tile_rows, u32* order, Tile* tiles, int num_tiles) {
  DYNAMIC_SHARED(int, counts);
  int* starts = counts + num_experts;
  int* first_tiles = starts + num_experts;
  __shared__ int tiles_used;
  const int num_choices = chosen.rows * chosen.cols;
  auto expert = [&](int choice) {
    return expert_of(chosen.row(choice / chosen.cols)[choice % chosen.cols], num_experts);
  };
  for (int e = threadIdx.x; e < num_experts; e += 1024) counts[e] = 0;
  __syncthreads();
  for (int choice = threadIdx.x; choice < num_choices; choice += 1024) {
    const int e = expert(choice);
    if (e >= 0) atomicAdd(counts + e, 1);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    int place = 0, tile = 0;
    for (int e0 = 0; e0 < num_experts; e0 += 32) {
      const int e = e0 + threadIdx.x, count = e < num_experts ? counts[e] : 0;
      int choices, tiles_of_experts;
      const int choices_before = warp_sum_before(count, choices);
      const int tiles_before = warp_sum_before((count + tile_rows - 1) / tile_rows, tiles_of_experts);
      if (e < num_experts) {
        starts[e] = place + choices_before;
        first_tiles[e] = tile + tiles_before;
      }
      place += choices;
      tile += tiles_of_experts;
    }
    if (threadIdx.x == 0) tiles_used = tile;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < num_experts; e += 1024)
    for (int done = 0; done < counts[e]; done += tile_rows)
      tiles[first_tiles[e] + done / tile_rows] = Tile{e, starts[e] + done, min(tile_rows, counts[e] - done), 0};
  for (int tile = tiles_used + threadIdx.x; tile < num_tiles; tile += 1024) tiles[tile] = Tile{0, 0, 0, 0};
  __syncthreads();
  for (int choice = threadIdx.x; choice < num_choices; choice += 1024) {
    const int e = expert(choice);
    if (e >= 0) order[atomicAdd(starts + e, 1)] = choice;
  }
}
EXPORT(moe_group)

// grid (rows, ceil(columns / 1024)); shared memory for top_k numbers.
KERNEL(256) moe_combine(Matrix to, Matrix outputs, Matrix chosen, Matrix weights, int num_experts) {
  DYNAMIC_SHARED(int, in_order);
  const i64 row = blockIdx.x;
  const int top_k = chosen.cols;
  const float* numbers = chosen.row(row);
  int defect = 0;
  for (int choice = threadIdx.x; choice < top_k; choice += 256) {
    const int expert = expert_of(numbers[choice], num_experts);
    int before = 0;
    for (int other = 0; other < top_k; ++other) {
      const int its = expert_of(numbers[other], num_experts);
      before += its < expert || (its == expert && other < choice);
    }
    in_order[before] = choice;
    defect |= expert < 0;
  }
  defect = __syncthreads_or(defect);
  const int end = min(to.cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256) {
    float sum = defect ? nan_f32() : 0.0f;
    if (!defect)
      for (int i = 0; i < top_k; ++i) sum += weights.row(row)[in_order[i]] * outputs.row(row * top_k + in_order[i])[col];
    to.row(row)[col] = sum;
  }
}
EXPORT(moe_combine)
