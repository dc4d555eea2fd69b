// Rotary position embedding (RoFormer, arXiv:2104.09864), in place: pairs (i, i + pairs) of the first 2 * pairs elements of
// every head turn by their row's position. grid (rows, ceil(heads * pairs / 256)).
#include "device.cuh"

KERNEL(256) rotary(Matrix x, const float* cosines, const float* sines, const u32* positions, int head_dim, int pairs) {
  const int index = blockIdx.y * 256 + threadIdx.x;
  if (index >= x.cols / head_dim * pairs) return;
  const int pair = index % pairs;
  float* head = x.row(blockIdx.x) + (i64)(index / pairs) * head_dim;
  const i64 at = (i64)positions[blockIdx.x] * pairs + pair;
  const float cosine = cosines[at], sine = sines[at], first = head[pair], second = head[pair + pairs];
  head[pair] = first * cosine - second * sine;
  head[pair + pairs] = second * cosine + first * sine;
}
EXPORT(rotary)
