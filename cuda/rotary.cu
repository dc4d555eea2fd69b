// Rotary positions, in place: every head turns by its row's position. grid (rows, ceil(heads * pairs / 256)).
#include "rotary.cuh"

KERNEL(256) rotary(Matrix x, const float* cosines, const float* sines, const u32* positions, int head_dim, int pairs) {
  const int index = blockIdx.y * 256 + threadIdx.x;
  if (index >= x.cols / head_dim * pairs) return;
  const int pair = index % pairs;
  const i64 at = (i64)positions[blockIdx.x] * pairs + pair;
  turn_pair(x.row(blockIdx.x) + (i64)(index / pairs) * head_dim, pair, pairs, cosines[at], sines[at]);
}
EXPORT(rotary)
