// Attention of many queries on the tensor cores: 64 queries of a sequence and a KV head, 16 to a warp, which go through the tiles
// of positions together.
//
//   shared     queries [part][64]    keys [64], values [64] of one tile: keys of the next are copied while weights are made,
//              values while scores are
//   registers  of a warp: scores [16][64], then weights; acc [16][WIDTH] of a split, and the total of the splits before
#pragma once
#include "attention_mma.cuh"

constexpr int PREFILL_QUERIES = 64;

template <class T, int WIDTH, int TILE_PARTS>
struct PrefillMemory {
  u32 queries[PARTS_OF<T>][PREFILL_QUERIES][WIDTH / 2 + 4];
  T keys[TILE_PARTS][TILE][WIDTH + 8];
  T values[TILE_PARTS][TILE][WIDTH + 8];
  float units[PREFILL_QUERIES];
};

// Where a prefill's tiles are: in the paged cache.
template <class Number, int WIDTH_>
struct PagedTiles {
  using T = Number;
  static constexpr int WIDTH = WIDTH_, PARTS = 1;
  KvBlocks cache;
  Sequences seqs;

  DEVICE int head_dim() const { return cache.head_dim; }
  DEVICE void copy_keys(T* to, const Queries& queries, const Range& range, int tile) const {
    copy_tile<T, WIDTH>(to, cache.keys, cache, seqs, queries, range, tile);
  }
  DEVICE void copy_values(T* to, const Queries& queries, const Range& range, int tile) const {
    copy_tile<T, WIDTH>(to, cache.values, cache, seqs, queries, range, tile);
  }
  DEVICE float key_unit(const Queries&, int) const { return 1.0f; }
  DEVICE float value_unit(const Queries&, int) const { return 1.0f; }
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

// Scores of a tile become weights, times `of_tile`, and what was summed up before is brought to their reference, and times
// `of_acc`: powers of two, which change no number's bits.
template <int FRAGMENTS>
DEVICE void weigh(float (&scores)[8][4], float (&acc)[FRAGMENTS][4], float (&largest)[2], float (&sums)[2][4], float of_acc,
                  float of_tile) {
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
    for (int n = 0; n < FRAGMENTS; ++n) {
      acc[n][2 * i] *= step.factor * of_acc, acc[n][2 * i + 1] *= step.factor * of_acc;
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) scores[n][2 * i] *= of_tile, scores[n][2 * i + 1] *= of_tile;
  }
}

// Sequences of up to `most_rows` rows are left out. grid (tiles of all other sequences, KV heads).
template <class Tiles>
DEVICE void prefill(Matrix to, Matrix q, const Tiles& tiles, const Sequences& seqs, const ScoreRules& rules, int most_rows) {
  using T = typename Tiles::T;
  constexpr int WIDTH = Tiles::WIDTH, PARTS = PARTS_OF<T>, PAIRS = WIDTH / 16;
  using Memory = PrefillMemory<T, WIDTH, Tiles::PARTS>;
  DYNAMIC_SHARED(Memory, memory);
  // The last tiles of a sequence see most: they begin first.
  const Queries queries = find_queries(seqs, rules, gridDim.x - 1 - blockIdx.x, blockIdx.y, most_rows);
  if (!queries.has(0)) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, head_dim = tiles.head_dim();
  const Range range(queries, 0, PREFILL_QUERIES, seqs, rules), own_range(queries, warp * 16, 16, seqs, rules);
  const Query own[2] = {Query(queries, warp * 16 + g, seqs, rules), Query(queries, warp * 16 + g + 8, seqs, rules)};
  const int first_tile = range.first / TILE, last_tile = range.last / TILE;
  tiles.copy_keys(memory->keys[0][0], queries, range, first_tile);
  close_copy_group();
  load_queries<T, WIDTH>(memory->queries[0][0], memory->units, PREFILL_QUERIES, q, queries, head_dim);
  __syncthreads();
  const float units[2] = {memory->units[warp * 16 + g], memory->units[warp * 16 + g + 8]};

  float acc[2 * PAIRS][4] = {}, out[2 * PAIRS][4] = {}, largest[2] = {-infinity(), -infinity()}, sums[2][4] = {};
  Softmax totals[2];
  constexpr float NO_UNIT = Tiles::PARTS == 1 ? 1.0f : 0.0f;
  float acc_unit = NO_UNIT;  // what acc counts in, a power of two: the largest of its tiles'
  for (int tile = first_tile; tile <= last_tile; ++tile) {
    const bool meets = own_range.meets(tile * TILE, TILE);
    tiles.copy_values(memory->values[0][0], queries, range, tile);
    close_copy_group();
    wait_for_copies<1>();
    __syncthreads();
    float scores[8][4] = {};
    if (meets)
      multiply_keys<T, WIDTH, 4, Tiles::PARTS>(scores, memory->queries[0][warp * 16], PREFILL_QUERIES, memory->keys[0][0],
                                               head_dim);
    __syncthreads();
    if (tile < last_tile) tiles.copy_keys(memory->keys[0][0], queries, range, tile + 1);
    close_copy_group();
    if (meets) {
      const float key_unit = tiles.key_unit(queries, tile), tile_units[2] = {units[0] * key_unit, units[1] * key_unit};
#pragma unroll
      for (int n = 0; n < 8; ++n) score(scores[n], own, tile_units, rules, tile * TILE + n * 8);
      if (Tiles::PARTS == 1) {
        weigh(scores, acc, largest, sums, 1.0f, 1.0f);
      } else {
        const float tile_unit = tiles.value_unit(queries, tile), unit = fmaxf(acc_unit, tile_unit);
        weigh(scores, acc, largest, sums, acc_unit / unit, tile_unit / unit);
        acc_unit = unit;
      }
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
      multiply_values<T, WIDTH, PAIRS, Tiles::PARTS>(acc, weights, memory->values[0][group * GROUP], head_dim);
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
        out[n][2 * i] = fold(out[n][2 * i], acc[n][2 * i] * acc_unit);
        out[n][2 * i + 1] = fold(out[n][2 * i + 1], acc[n][2 * i + 1] * acc_unit);
        acc[n][2 * i] = acc[n][2 * i + 1] = 0.0f;
      }
      largest[i] = -infinity();
#pragma unroll
      for (int group = 0; group < 4; ++group) sums[i][group] = 0.0f;
    }
    acc_unit = NO_UNIT;
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
