// Causal attention of few queries over keys and values of 16 bits: sixteen queries of a sequence and a KV head, so that all
// query heads share every read, and a split of positions, or all of them. grid (sequences x tiles, KV heads, 1 or splits).
//
//   shared     queries [part][16]    weights [part][16][64]    keys, values [stage][64]     copied behind the products' back
//   warp w     scores of keys 16w ..  -> weights ->  all 64 keys' values, a quarter of the columns
#include "attention_mma.cuh"

template <class T, int WIDTH, int STAGES>
struct DecodeMemory {
  u32 queries[PARTS_OF<T>][16][WIDTH / 2 + 4];
  u32 weights[PARTS_OF<T>][16][TILE / 2 + 4];
  T keys[STAGES][TILE][WIDTH + 8];
  T values[STAGES][TILE][WIDTH + 8];
  float units[16], tops[4][16], sums[4][16];
};

// Sequences of more than `most_rows` are a prefill's.
template <class T, int WIDTH, int STAGES>
DEVICE void decode(Matrix to, Matrix q, const KvBlocks& cache, const Sequences& seqs, const ScoreRules& rules,
                   const Partials& partials, int tiles, int most_rows) {
  constexpr int PARTS = PARTS_OF<T>, COLUMNS = WIDTH / 4, PAIRS = COLUMNS / 16;
  using Memory = DecodeMemory<T, WIDTH, STAGES>;
  DYNAMIC_SHARED(Memory, memory);
  const int seq = blockIdx.x / tiles, first_row = seqs.starts[seq], rows = (int)seqs.starts[seq + 1] - first_row;
  const Queries queries{seq, first_row, (int)blockIdx.y, rules.group, rows * rules.group, (int)blockIdx.x % tiles * 16};
  if (rows > most_rows || !queries.has(0)) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, head_dim = cache.head_dim;
  Range range(queries, 0, 16, seqs, rules);
  int first_split = range.first / SPLIT, end_split = range.last / SPLIT + 1;
  if (partials.data) {
    first_split += blockIdx.z;
    if (first_split >= end_split) return;
    end_split = first_split + 1;
  }
  const int first_tile = max(range.first, first_split * SPLIT) / TILE;
  const int last_tile = min(range.last, end_split * SPLIT - 1) / TILE;
  const Query own[2] = {Query(queries, g, seqs, rules), Query(queries, g + 8, seqs, rules)};
  const auto copy = [&](int tile) {
    const int stage = (tile - first_tile) % STAGES;
    copy_tile<T, WIDTH>(memory->keys[stage][0], cache.keys, cache, seqs, queries, range, tile);
    copy_tile<T, WIDTH>(memory->values[stage][0], cache.values, cache, seqs, queries, range, tile);
    close_copy_group();
  };
  if (STAGES > 1) copy(first_tile);
  load_queries<T, WIDTH>(memory->queries[0][0], memory->units, 16, q, queries, head_dim);
  __syncthreads();
  const float units[2] = {memory->units[g], memory->units[g + 8]};

  float acc[2 * PAIRS][4] = {}, out[2 * PAIRS][4] = {}, largest[2] = {-infinity(), -infinity()}, sums[2] = {};
  Softmax totals[2];
  for (int tile = first_tile; tile <= last_tile; ++tile) {
    const int stage = (tile - first_tile) % STAGES, position = tile * TILE + warp * GROUP;
    if (STAGES == 1) copy(tile);
    wait_for_copies<0>();
    __syncthreads();
    if (STAGES > 1 && tile < last_tile) copy(tile + 1);

    float scores[2][4] = {};
    if (range.meets(position, GROUP))
      multiply_keys<T, WIDTH, 1>(scores, memory->queries[0][0], 16, memory->keys[stage][warp * GROUP], head_dim);
    score(scores[0], own, units, rules, position);
    score(scores[1], own, units, rules, position + 8);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = fmaxf(scores[0][2 * i], scores[0][2 * i + 1]), high = fmaxf(scores[1][2 * i], scores[1][2 * i + 1]);
      const float top = quad_max(fmaxf(low, high));
      if (c == 0) memory->tops[warp][g + 8 * i] = top;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = g + 8 * i;
      const float low = fmaxf(memory->tops[0][query], memory->tops[1][query]);
      const Step step(largest[i], fmaxf(low, fmaxf(memory->tops[2][query], memory->tops[3][query])));
      float weights[2][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weights[half][0] = step.weight(scores[half][2 * i]);
        weights[half][1] = step.weight(scores[half][2 * i + 1]);
        u32 words[PARTS];
        pack_parts<T>(words, weights[half][0], weights[half][1]);
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
          memory->weights[part][query][(warp * GROUP + half * 8) / 2 + c] = words[part];
      }
      sums[i] = fmaf(sums[i], step.factor, (weights[0][0] + weights[0][1]) + (weights[1][0] + weights[1][1]));
#pragma unroll
      for (int n = 0; n < 2 * PAIRS; ++n) acc[n][2 * i] *= step.factor, acc[n][2 * i + 1] *= step.factor;
    }
    __syncthreads();
#pragma unroll
    for (int group = 0; group < TILE / GROUP; ++group) {
      if (!range.meets(tile * TILE + group * GROUP, GROUP)) continue;
      u32 weights[PARTS][4];
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
        load_matrices<false>(weights[part][0], weights[part][1], weights[part][2], weights[part][3],
                             &memory->weights[part][lane % 16][group * GROUP / 2 + lane / 16 * 4]);
      multiply_values<T, WIDTH, PAIRS>(acc, weights, &memory->values[stage][group * GROUP][warp * COLUMNS],
                                       head_dim - warp * COLUMNS);
    }
    if (STAGES == 1) __syncthreads();
    if (tile < last_tile && (tile + 1) * TILE % SPLIT != 0) continue;

    // The end of a split.
    const int split = tile * TILE / SPLIT;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = quad_sum(sums[i]);
      if (c == 0) memory->sums[warp][g + 8 * i] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = g + 8 * i;
      const float sum = (memory->sums[0][query] + memory->sums[1][query]) + (memory->sums[2][query] + memory->sums[3][query]);
      const Softmax part(largest[i], sum);
      if (partials.data) {
        if (split < own[i].first / SPLIT || split > own[i].last / SPLIT) continue;
        const int slot = seq * partials.most_rows + queries.row(query) - first_row;
        float* at = partials.at(slot, q.cols / head_dim, own[i].head, split - own[i].first / SPLIT);
        if (warp == 0 && c == 0) at[head_dim] = part.largest, at[head_dim + 1] = part.sum;
#pragma unroll
        for (int n = 0; n < 2 * PAIRS; ++n) {
          const int column = warp * COLUMNS + n * 8 + 2 * c;
          if (column < head_dim) *reinterpret_cast<float2*>(at + column) = float2{acc[n][2 * i], acc[n][2 * i + 1]};
        }
        continue;
      }
      const Fold fold(totals[i], part);
#pragma unroll
      for (int n = 0; n < 2 * PAIRS; ++n) {
        out[n][2 * i] = fold(out[n][2 * i], acc[n][2 * i]);
        out[n][2 * i + 1] = fold(out[n][2 * i + 1], acc[n][2 * i + 1]);
        acc[n][2 * i] = acc[n][2 * i + 1] = 0.0f;
      }
      largest[i] = -infinity();
      sums[i] = 0.0f;
    }
  }
  if (partials.data) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = g + 8 * i;
    if (!queries.has(query)) continue;
    const float factor = normalizer(totals[i], rules, own[i].head);
    float* result = to.row(queries.row(query)) + own[i].head * head_dim;
#pragma unroll
    for (int n = 0; n < 2 * PAIRS; ++n) {
      const int column = warp * COLUMNS + n * 8 + 2 * c;
      if (column < head_dim) result[column] = out[n][2 * i] * factor, result[column + 1] = out[n][2 * i + 1] * factor;
    }
  }
}

#define DECODE(name, T, WIDTH, STAGES)                                                                               \
  KERNEL(128, 1) name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, Partials partials,      \
                      int tiles, int most_rows) {                                                                    \
    decode<T, WIDTH, STAGES>(to, q, cache, seqs, rules, partials, tiles, most_rows);                                 \
  }                                                                                                                  \
  EXPORT(name)

DECODE(attention_decode_f16_64, f16, 64, 2)
DECODE(attention_decode_f16_128, f16, 128, 2)
DECODE(attention_decode_f16_256, f16, 256, 1)
DECODE(attention_decode_bf16_64, bf16, 64, 2)
DECODE(attention_decode_bf16_128, bf16, 128, 2)
DECODE(attention_decode_bf16_256, bf16, 256, 1)
