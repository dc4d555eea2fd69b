// The experts of every row: a warp a row, four rows a block.
//
//   logits ─► scores ─► choice = scores + bias, as keys that order as the numbers do ─► groups ─► the best, one after another
//
// A row of shared memory has three parts: scores [experts], keys [experts] and the keys of groups [groups].
#include "device.cuh"

// rust/cuda/src/moe.rs has the same.
struct RoutingRules {
  int top_k, is_sigmoid, num_groups, topk_group, counts_two_best, renormalizes;
  float scaling_factor;
};

constexpr int kRowsOfBlock = 4;

// Ascending keys are ascending numbers; NaN is above them all. 0 is no number's.
DEVICE u32 key_of(float value) {
  const u32 bits = __float_as_uint(value);
  const u32 key = bits >> 31 ? ~bits : bits | 0x80000000u;
  return key ? key : 1u;
}

// Where the largest of `keys` stands, of equals the first: the same for every lane.
DEVICE int warp_best(const u32* keys, int n) {
  u64 best = 0;
  for (int i = threadIdx.x % 32; i < n; i += 32) best = max(best, (u64)keys[i] << 32 | (u32)~i);
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) best = max(best, __shfl_xor_sync(~0u, best, distance));
  return (int)~(u32)best;
}

DEVICE void score(float* scores, const float* logits, int n, int is_sigmoid) {
  const int lane = threadIdx.x % 32;
  if (is_sigmoid) {
    for (int i = lane; i < n; i += 32) scores[i] = 1.0f / (1.0f + expf(-logits[i]));
    return;
  }
  float largest = -infinity(), sum = 0.0f;
  for (int i = lane; i < n; i += 32) largest = fmaxf(largest, logits[i]);
  largest = warp_max(largest);
  for (int i = lane; i < n; i += 32) sum += scores[i] = expf(logits[i] - largest);
  sum = warp_sum(sum);
  for (int i = lane; i < n; i += 32) scores[i] /= sum;
}

// What a group's score is made of: its best key, or the sum of the two best.
DEVICE u32 group_key(const float* scores, const float* bias, const u32* keys, int first, int size, int counts_two_best) {
  int best = first, second = -1;
  for (int i = first + 1; i < first + size; ++i) {
    if (keys[i] > keys[best]) {
      second = best;
      best = i;
    } else if (second < 0 || keys[i] > keys[second]) {
      second = i;
    }
  }
  if (!counts_two_best) return keys[best];
  auto choice = [&](int i) { return i < 0 ? 0.0f : bias ? scores[i] + bias[i] : scores[i]; };
  return key_of(choice(best) + choice(second));
}

// Puts the experts of all but the best groups out of reach.
DEVICE void keep_groups(const float* scores, const float* bias, u32* keys, u32* groups, int n, const RoutingRules& rules) {
  const int lane = threadIdx.x % 32, size = n / rules.num_groups;
  for (int group = lane; group < rules.num_groups; group += 32)
    groups[group] = group_key(scores, bias, keys, group * size, size, rules.counts_two_best);
  __syncwarp();
  for (int kept = 0; kept < rules.topk_group; ++kept) {
    const int best = warp_best(groups, rules.num_groups);
    __syncwarp();
    if (lane == 0) groups[best] = 0;
    __syncwarp();
  }
  for (int i = lane; i < n; i += 32)
    if (groups[i / size]) keys[i] = key_of(-infinity());
  __syncwarp();
}

KERNEL(128) route(Matrix experts, Matrix weights, Matrix logits, const float* bias, RoutingRules rules) {
  DYNAMIC_SHARED(float, shared);
  const int n = logits.cols, lane = threadIdx.x % 32;
  const i64 row = (i64)blockIdx.x * kRowsOfBlock + threadIdx.x / 32;
  if (row >= logits.rows) return;
  float* scores = shared + (threadIdx.x / 32) * (2 * n + rules.num_groups);
  u32* keys = reinterpret_cast<u32*>(scores + n);
  score(scores, logits.row(row), n, rules.is_sigmoid);
  for (int i = lane; i < n; i += 32) keys[i] = key_of(bias ? scores[i] + bias[i] : scores[i]);
  __syncwarp();
  if (rules.num_groups > 1) keep_groups(scores, bias, keys, keys + n, n, rules);
  float sum = 0.0f;
  for (int choice = 0; choice < rules.top_k; ++choice) {
    const int best = warp_best(keys, n);
    __syncwarp();
    if (lane == 0) keys[best] = 0;
    __syncwarp();
    sum += scores[best];
    if (lane == choice % 32) {
      experts.row(row)[choice] = (float)best;
      weights.row(row)[choice] = scores[best];
    }
  }
  // The least sum there is: rust/ops/src/moe.rs.
  const float divisor = rules.renormalizes ? sum + 1e-20f : 1.0f;
  for (int choice = lane; choice < rules.top_k; choice += 32)
    weights.row(row)[choice] = weights.row(row)[choice] / divisor * rules.scaling_factor;
}
EXPORT(route)

// Multiplies each choice's weight by its expert's factor, of `num_experts`; an expert there is not makes NaN: grid (rows), a warp
// each.
KERNEL(32) scale_experts(Matrix weights, Matrix experts, const float* factors, int num_experts) {
  for (int choice = threadIdx.x; choice < weights.cols; choice += 32) {
    const float expert = experts.row(blockIdx.x)[choice];
    const bool exists = expert >= 0.0f && expert < (float)num_experts;
    weights.row(blockIdx.x)[choice] *= exists ? factors[(int)expert] : nan_f32();
  }
}
EXPORT(scale_experts)
