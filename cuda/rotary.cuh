// Rotary position embedding (RoFormer, arXiv:2104.09864) of a head: pairs (i, i + pairs) of its first 2 * pairs elements turn.
#pragma once
#include "device.cuh"

DEVICE void turn_pair(float* head, int pair, int pairs, float cosine, float sine) {
  const float first = head[pair], second = head[pair + pairs];
  head[pair] = first * cosine - second * sine;
  head[pair + pairs] = second * cosine + first * sine;
}
