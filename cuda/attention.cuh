// What the attention kernels have in common: who sees whom, what is done to scores, and how softmaxes are combined.
//
//   positions of a sequence, cut into splits at multiples of 256 whatever the batch
//     split 0                  split 1                  split 2
//   +------------------------+------------------------+---------+
//   |  (max, sum, out)       |  (max, sum, out)       |  ...    |     a softmax each
//   +------------------------+------------------------+---------+
//        fold into (-inf, 0, 0), in this order, by one block or by a kernel afterwards: the same arithmetic
//
// Sums that two kernels must agree on to the bit are written with fmaf, so that no compiler fuses them its own way.
#pragma once
#include "distances.cuh"
#include "kv_cache.cuh"

constexpr int SPLIT = 256;

// Who sees whom, and what is done to scores. rust/cuda/src/attention.rs has the same.
struct ScoreRules {
  const float* slopes;  // of each query head, or null
  const float* sinks;   // of each query head, or null
  const float* bias;    // rows of 2 * reach + 1 by distance, one for each query head, or null
  int reach;
  int before, ahead;  // how many positions a row sees before its own and after it
  int group;          // query heads of a KV head
  float scale, soft_cap;
  Distances distances;

  // Of a product of the query `row` of the batch and of a key `distance` positions after it.
  DEVICE float score(float dot, int row, int head, int distance) const {
    float score = fmaf(distances.add_to(dot, row, head, distance), scale, 0.0f);
    if (soft_cap > 0.0f) score = soft_cap * tanhf(score / soft_cap);
    if (slopes) score = fmaf(slopes[head], (float)distance, score);
    if (bias) score += bias[(i64)head * (2 * reach + 1) + max(0, min(reach + distance, 2 * reach))];
    return score;
  }
};

// The positions that a row sees, `last` included.
struct Seen {
  int position, first, last;

  DEVICE Seen(int position, int end, const ScoreRules& rules)
      : position(position),
        first(position > rules.before ? position - rules.before : 0),
        last(end - position > rules.ahead ? position + rules.ahead : end - 1) {}
  DEVICE int first_split() const { return first / SPLIT; }
  DEVICE int splits() const { return last / SPLIT - first / SPLIT + 1; }
};

// The sequences of a batch, as AttentionMetadata has them; an encoder's have `starts` alone: its rows are at positions 0, 1, ...
// and see keys after them too. rust/cuda/src/attention.rs has the same.
struct Sequences {
  const u32* positions;
  const u32* starts;
  const u32* block_table;
  int num_seqs, max_blocks;

  DEVICE Seen seen(int row, int seq, const ScoreRules& rules) const {
    if (positions) return Seen(positions[row], positions[row] + 1, rules);
    return Seen(row - (int)starts[seq], (int)(starts[seq + 1] - starts[seq]), rules);
  }
};

// The sequence of a row, found by a warp: those that end at or before the row come first.
DEVICE int sequence_of(const u32* starts, int num_seqs, int row) {
  int before = 0;
  for (int first = 0; first < num_seqs; first += 32) {
    const int seq = first + threadIdx.x % 32;
    before += __popc(__ballot_sync(~0u, seq < num_seqs && (int)starts[seq + 1] <= row));
  }
  return before;
}

// exp of what is not above 0.
DEVICE float exp_below(float x) {
  constexpr float LOG2_E = 1.44269504f;
#ifdef RUSTLLM_SIMULATOR
  return exp2f(x * LOG2_E);
#else
  float result;
  asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x * LOG2_E));
  return result;
#endif
}

// A running softmax: the largest score, and the sum of what is relative to it.
struct Softmax {
  float largest, sum;

  DEVICE Softmax(float largest = -infinity(), float sum = 0.0f) : largest(largest), sum(sum) {}
};

// What two partial softmaxes count for, relative to the larger maximum. `total` becomes that of both. A split of which a row sees
// nothing changes nothing.
struct Fold {
  float of_total, of_part;

  DEVICE Fold(Softmax& total, Softmax part) {
    if (part.largest == -infinity()) {
      of_total = 1.0f, of_part = 0.0f;
      return;
    }
    const float largest = fmaxf(total.largest, part.largest);
    of_total = expf(total.largest - largest);
    of_part = expf(part.largest - largest);
    total = Softmax{largest, fmaf(total.sum, of_total, part.sum * of_part)};
  }
  DEVICE float operator()(float total, float part) const { return fmaf(total, of_total, part * of_part); }
};

// What the weighed values are multiplied with at last: a sink is one more score, without a value.
DEVICE float normalizer(Softmax total, const ScoreRules& rules, int head) {
  if (!rules.sinks) return 1.0f / total.sum;
  const Fold fold(total, Softmax{rules.sinks[head], 1.0f});
  return fold.of_total / total.sum;
}
