// Attention of many queries on the tensor cores: 64 queries of a sequence and a KV head, 16 to a warp, which go through the tiles
// of positions together.
//
//   shared     queries [part][64]    keys [64], values [64] of one tile: keys of the next are copied while weights are made,
//              values while scores are
//   registers  of a warp: scores [16][64], then weights; acc [16][COLUMNS] of a split, and the total of the splits before
//
// Of heads wider than 128 a warp has no registers for all columns: two warps share 16 queries, and have half of the columns
// each. Both make all of the weights: a third more products than if they shared these too, and no barrier more. A barrier and
// [16][32] scores by shared memory in place of the second half of the keys' products would be the next step.
#pragma once
#include "attention_tiles.cuh"

constexpr int PREFILL_QUERIES = 64;

template <int WIDTH>
constexpr int PREFILL_WARPS = WIDTH > 128 ? 8 : 4;

template <class Tiles>
struct PrefillMemory {
  u32 queries[PARTS_OF<typename Tiles::T>][PREFILL_QUERIES][Tiles::WIDTH / 2 + 4];
  typename Tiles::Memory tile;
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

// What a block has and makes, each warp and lane its part: of queries g and g + 8 of the warp's sixteen, of keys or columns 2c
// and 2c + 1 of eight.
template <class Tiles>
struct Prefill {
  using T = typename Tiles::T;
  static constexpr int WIDTH = Tiles::WIDTH, PARTS = PARTS_OF<T>, COLUMNS = WIDTH * 4 / PREFILL_WARPS<WIDTH>;
  static constexpr float NO_UNIT = Tiles::PARTS == 1 ? 1.0f : 0.0f;

  PrefillMemory<Tiles>& memory;
  const Tiles& tiles;
  const ScoreRules& rules;
  const Queries& queries;
  const Range& range;      // of all queries
  const Range& own_range;  // of this warp's
  const Query (&own)[2];
  float units[2];
  WeighedValues<COLUMNS / 8> values;
  float sums[2][4] = {};
  float acc_unit = NO_UNIT;  // what values.acc counts in, a power of two: the largest of its tiles'

  DEVICE static int first_query() { return threadIdx.x / 32 % 4 * 16; }
  DEVICE static int first_column() { return threadIdx.x / 128 * COLUMNS; }
  DEVICE static int g() { return threadIdx.x % 32 / 4; }

  DEVICE void multiply(float (&products)[8][4]) const {
    multiply_keys<T, WIDTH, 4, Tiles::PARTS>(products, memory.queries[0][first_query()], PREFILL_QUERIES,
                                             Tiles::keys(memory.tile), tiles.head_dim());
  }

  // Products become scores, and scores weights.
  DEVICE void weigh(float (&products)[8][4], int tile) {
    const float key_unit = tiles.key_unit(queries, tile), tile_units[2] = {units[0] * key_unit, units[1] * key_unit};
#pragma unroll
    for (int n = 0; n < 8; ++n) score<Tiles>(products[n], own, tile_units, rules, memory.tile, tile, n * 8);
    if (Tiles::PARTS == 1) {
      weigh(products, 1.0f, 1.0f);
    } else {
      const float tile_unit = tiles.value_unit(queries, tile), unit = fmaxf(acc_unit, tile_unit);
      weigh(products, acc_unit / unit, tile_unit / unit);
      acc_unit = unit;
    }
  }

  // Scores of a tile become weights, times `of_tile`, and what was summed up before is brought to their reference, and times
  // `of_acc`: powers of two, which change no number's bits.
  DEVICE void weigh(float (&scores)[8][4], float of_acc, float of_tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = -infinity();
#pragma unroll
      for (int n = 0; n < 8; ++n) top = fmaxf(top, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      const Step step(values.largest[i], quad_max(top));
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
      values.scale(i, step.factor * of_acc);
#pragma unroll
      for (int n = 0; n < 8; ++n) scores[n][2 * i] *= of_tile, scores[n][2 * i + 1] *= of_tile;
    }
  }

  DEVICE void add_values(const float (&weights)[8][4], int tile) {
#pragma unroll
    for (int group = 0; group < TILE / GROUP; ++group) {
      if (!own_range.meets(tile * TILE + group * GROUP, GROUP)) continue;
      u32 parts[PARTS][4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const float* pair = &weights[2 * group + word / 2][word % 2 * 2];
        const int key = group * GROUP + word / 2 * 8 + threadIdx.x % 4 * 2;
        u32 words[PARTS];
        pack_parts<T>(words, pair[0] * Tiles::value_scale(memory.tile, key),
                      pair[1] * Tiles::value_scale(memory.tile, key + 1));
#pragma unroll
        for (int part = 0; part < PARTS; ++part) parts[part][word] = words[part];
      }
      multiply_values<T, WIDTH, COLUMNS / 16, Tiles::PARTS>(
          values.acc, parts, Tiles::values(memory.tile) + group * GROUP * (WIDTH + 8) + first_column(),
          tiles.head_dim() - first_column());
    }
  }

  DEVICE void end_split() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = quad_sum(sums[i][0]) + quad_sum(sums[i][1]), high = quad_sum(sums[i][2]) + quad_sum(sums[i][3]);
      values.end_split(i, low + high, acc_unit);
#pragma unroll
      for (int group = 0; group < 4; ++group) sums[i][group] = 0.0f;
    }
    acc_unit = NO_UNIT;
  }

  DEVICE void run(int first_tile, int last_tile) {
    for (int tile = first_tile; tile <= last_tile; ++tile) {
      const bool meets = own_range.meets(tile * TILE, TILE);
      tiles.copy_values(memory.tile, queries, range, tile);
      close_copy_group();
      wait_for_copies<1>();
      tiles.land_keys(memory.tile, range, tile);
      __syncthreads();
      float scores[8][4] = {};
      if (meets) multiply(scores);
      __syncthreads();
      if (tile < last_tile) tiles.copy_keys(memory.tile, queries, range, tile + 1);
      close_copy_group();
      if (meets) weigh(scores, tile);
      wait_for_copies<1>();
      tiles.land_values(memory.tile, range, tile);
      __syncthreads();
      add_values(scores, tile);
      __syncthreads();
      if (tile == last_tile || (tile + 1) * TILE % SPLIT == 0) end_split();
    }
  }

  DEVICE void write(const Matrix& to) const {
    const int head_dim = tiles.head_dim();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = first_query() + g() + 8 * i;
      if (!queries.has(query)) continue;
      const float factor = normalizer(values.totals[i], rules, own[i].head);
      values.write(i, to.row(queries.row(query)) + own[i].head * head_dim, factor, first_column(),
                   head_dim);
    }
  }
};

// Sequences of up to `most_rows` rows are left out. grid (tiles of all other sequences, KV heads).
template <class Tiles>
DEVICE void prefill(const Matrix& to, const Matrix& q, const Tiles& tiles, const Sequences& seqs, const ScoreRules& rules,
                    int most_rows) {
  using Memory = PrefillMemory<Tiles>;
  DYNAMIC_SHARED(Memory, memory);
  // The last tiles of a sequence see most: they begin first.
  const Queries queries = find_queries(seqs, rules, gridDim.x - 1 - blockIdx.x, blockIdx.y, most_rows);
  if (!queries.has(0)) return;
  const int first = Prefill<Tiles>::first_query(), g = Prefill<Tiles>::g();
  const Range range(queries, 0, PREFILL_QUERIES, seqs, rules), own_range(queries, first, 16, seqs, rules);
  const Query own[2] = {Query(queries, first + g, seqs, rules), Query(queries, first + g + 8, seqs, rules)};
  const int first_tile = range.first / TILE, last_tile = range.last / TILE;
  tiles.copy_keys(memory->tile, queries, range, first_tile);
  close_copy_group();
  constexpr int THREADS = 32 * PREFILL_WARPS<Tiles::WIDTH>;
  load_queries<typename Tiles::T, Tiles::WIDTH, THREADS>(memory->queries[0][0], memory->units, PREFILL_QUERIES, q, queries,
                                                         tiles.head_dim());
  __syncthreads();
  const float units[2] = {memory->units[first + g], memory->units[first + g + 8]};
  Prefill<Tiles> block{*memory, tiles, rules, queries, range, own_range, own, {units[0], units[1]}, {}};
  block.run(first_tile, last_tile);
  block.write(to);
}
