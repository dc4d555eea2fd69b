// Causal attention of many queries over keys and values of 16 bits: 64 queries of a sequence and a KV head, 16 to a warp, which
// go through the tiles of positions together. grid (tiles of all sequences that are prefills, KV heads).
//
//   shared     queries [part][64]    keys [64], values [64] of one tile: keys of the next are copied while weights are made,
//              values while scores are
//   registers  of a warp: scores [16][64], then weights; acc [16][WIDTH] of a split, and the total of the splits before
#include "attention_mma.cuh"

constexpr int PREFILL_QUERIES = 64;

template <class T, int WIDTH>
struct PrefillMemory {
  u32 queries[PARTS_OF<T>][PREFILL_QUERIES][WIDTH / 2 + 4];
  T keys[TILE][WIDTH + 8];
  T values[TILE][WIDTH + 8];
  float units[PREFILL_QUERIES];
};

// The queries of tile `tile` of those sequences that have more rows than `most_rows`, one after another.
DEVICE Queries find_queries(const Sequences& seqs, const ScoreRules& rules, int tile, int kv_head, int most_rows) {
  for (int first = 0; first < seqs.num_seqs; first += 32) {
    const int lane = threadIdx.x % 32, seq = first + lane;
    const int start = seq < seqs.num_seqs ? seqs.starts[seq] : 0, end = seq < seqs.num_seqs ? seqs.starts[seq + 1] : 0;
    const int count = (end - start) * rules.group;
    const int tiles = end - start > most_rows ? (count + PREFILL_QUERIES - 1) / PREFILL_QUERIES : 0;
    int after = tiles;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1) {
      const int before = __shfl_up_sync(~0u, after, distance);
      if (lane >= distance) after += before;
    }
    const u32 beyond = __ballot_sync(~0u, after > tile);
    if (beyond) {
      const int found = __ffs(beyond) - 1;
      const int within = tile - __shfl_sync(~0u, after - tiles, found);
      return {first + found, __shfl_sync(~0u, start, found), kv_head, rules.group, __shfl_sync(~0u, count, found),
              within * PREFILL_QUERIES};
    }
    tile -= __shfl_sync(~0u, after, 31);
  }
  return {0, 0, kv_head, rules.group, 0, 0};
}

// Scores of a tile become weights, and what was summed up before is brought to their reference.
template <class T, int FRAGMENTS>
DEVICE void weigh(float (&scores)[8][4], float (&acc)[FRAGMENTS][4], float (&largest)[2], float (&sums)[2][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float top = -infinity();
#pragma unroll
    for (int n = 0; n < 8; ++n) top = fmaxf(top, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    const Step step(largest[i], quad_max(top));
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      scores[n][2 * i] = step.weight(scores[n][2 * i]);
      scores[n][2 * i + 1] = step.weight(scores[n][2 * i + 1]);
    }
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const float *low = scores[2 * group], *high = scores[2 * group + 1];
      sums[i][group] = fmaf(sums[i][group], step.factor, (low[2 * i] + low[2 * i + 1]) + (high[2 * i] + high[2 * i + 1]));
    }
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) acc[n][2 * i] *= step.factor, acc[n][2 * i + 1] *= step.factor;
  }
}

template <class T, int WIDTH>
DEVICE void prefill(Matrix to, Matrix q, const KvBlocks& cache, const Sequences& seqs, const ScoreRules& rules,
                    int most_rows) {
  constexpr int PARTS = PARTS_OF<T>, PAIRS = WIDTH / 16;
  using Memory = PrefillMemory<T, WIDTH>;
  DYNAMIC_SHARED(Memory, memory);
  // The last tiles of a sequence see most: they begin first.
  const Queries queries = find_queries(seqs, rules, gridDim.x - 1 - blockIdx.x, blockIdx.y, most_rows);
  if (!queries.has(0)) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, head_dim = cache.head_dim;
  const Range range(queries, 0, PREFILL_QUERIES, seqs, rules), own_range(queries, warp * 16, 16, seqs, rules);
  const Query own[2] = {Query(queries, warp * 16 + g, seqs, rules), Query(queries, warp * 16 + g + 8, seqs, rules)};
  const int first_tile = range.first / TILE, last_tile = range.last / TILE;
  copy_tile<T, WIDTH>(memory->keys[0], cache.keys, cache, seqs, queries, range, first_tile);
  close_copy_group();
  load_queries<T, WIDTH>(memory->queries[0][0], memory->units, PREFILL_QUERIES, q, queries, head_dim);
  __syncthreads();
  const float units[2] = {memory->units[warp * 16 + g], memory->units[warp * 16 + g + 8]};

  float acc[2 * PAIRS][4] = {}, out[2 * PAIRS][4] = {}, largest[2] = {-infinity(), -infinity()}, sums[2][4] = {};
  Softmax totals[2];
  for (int tile = first_tile; tile <= last_tile; ++tile) {
    const bool meets = own_range.meets(tile * TILE, TILE);
    copy_tile<T, WIDTH>(memory->values[0], cache.values, cache, seqs, queries, range, tile);
    close_copy_group();
    wait_for_copies<1>();
    __syncthreads();
    float scores[8][4] = {};
    if (meets) multiply_keys<T, WIDTH, 4>(scores, memory->queries[0][warp * 16], PREFILL_QUERIES, memory->keys[0], head_dim);
    __syncthreads();
    if (tile < last_tile) copy_tile<T, WIDTH>(memory->keys[0], cache.keys, cache, seqs, queries, range, tile + 1);
    close_copy_group();
    if (meets) {
#pragma unroll
      for (int n = 0; n < 8; ++n) score(scores[n], own, units, rules, tile * TILE + n * 8);
      weigh<T>(scores, acc, largest, sums);
    }
    wait_for_copies<1>();
    __syncthreads();
#pragma unroll
    for (int group = 0; group < TILE / GROUP; ++group) {
      if (!own_range.meets(tile * TILE + group * GROUP, GROUP)) continue;
      u32 weights[PARTS][4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const float* pair = &scores[2 * group + word / 2][word % 2 * 2];
        u32 words[PARTS];
        pack_parts<T>(words, pair[0], pair[1]);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) weights[part][word] = words[part];
      }
      multiply_values<T, WIDTH, PAIRS>(acc, weights, memory->values[group * GROUP], head_dim);
    }
    __syncthreads();
    if (tile < last_tile && (tile + 1) * TILE % SPLIT != 0) continue;

    // The end of a split.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = quad_sum(sums[i][0]) + quad_sum(sums[i][1]), high = quad_sum(sums[i][2]) + quad_sum(sums[i][3]);
      const Fold fold(totals[i], Softmax(largest[i], low + high));
#pragma unroll
      for (int n = 0; n < 2 * PAIRS; ++n) {
        out[n][2 * i] = fold(out[n][2 * i], acc[n][2 * i]);
        out[n][2 * i + 1] = fold(out[n][2 * i + 1], acc[n][2 * i + 1]);
        acc[n][2 * i] = acc[n][2 * i + 1] = 0.0f;
      }
      largest[i] = -infinity();
#pragma unroll
      for (int group = 0; group < 4; ++group) sums[i][group] = 0.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = warp * 16 + g + 8 * i;
    if (!queries.has(query)) continue;
    const float factor = normalizer(totals[i], rules, own[i].head);
    float* result = to.row(queries.row(query)) + own[i].head * head_dim;
#pragma unroll
    for (int n = 0; n < 2 * PAIRS; ++n) {
      const int column = n * 8 + 2 * c;
      if (column < head_dim) result[column] = out[n][2 * i] * factor, result[column + 1] = out[n][2 * i + 1] * factor;
    }
  }
}

#define PREFILL(name, T, WIDTH)                                                                                       \
  KERNEL(128) name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, int most_rows) {            \
    prefill<T, WIDTH>(to, q, cache, seqs, rules, most_rows);                                                          \
  }                                                                                                                   \
  EXPORT(name)

PREFILL(attention_prefill_f16_64, f16, 64)
PREFILL(attention_prefill_f16_128, f16, 128)
PREFILL(attention_prefill_bf16_64, bf16, 64)
PREFILL(attention_prefill_bf16_128, bf16, 128)
