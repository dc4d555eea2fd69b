// Causal attention of few queries over keys and values of 16 or eight bits: sixteen queries of a sequence and a KV head, so that all
// query heads share every read, and splits of positions, or all of them. grid (sequences x tiles + spare blocks, KV heads).
//
//   shared     queries [part][16]    weights [part][16][64]    keys, values [stage][64]     copied behind the products' back
//   warp w     scores of keys 16w ..  -> weights ->  all 64 keys' values, a quarter of the columns
//
// With two stages a tile is copied while the one before is multiplied; with one, its keys while values are multiplied, and
// its values while keys are.
#include "attention_shares.cuh"
#include "attention_tiles.cuh"

constexpr int DECODE_WARPS = 4;

template <class Tiles, int STAGES>
struct DecodeMemory {
  u32 queries[PARTS_OF<typename Tiles::T>][16][Tiles::WIDTH / 2 + 4];
  u32 weights[PARTS_OF<typename Tiles::T>][16][TILE / 2 + 4];
  typename Tiles::Memory tiles[STAGES];
  float units[16], tops[DECODE_WARPS][16], sums[DECODE_WARPS][16];
};

// What a block has and makes, each warp and lane its part: of queries g and g + 8, of keys or columns 2c and 2c + 1 of eight.
template <class Tiles, int STAGES>
struct Decode {
  using T = typename Tiles::T;
  static constexpr int PARTS = PARTS_OF<T>, COLUMNS = Tiles::WIDTH / DECODE_WARPS;
  static constexpr bool AHEAD = STAGES > 1;

  DecodeMemory<Tiles, STAGES>& memory;
  const Tiles& tiles;
  const ScoreRules& rules;
  const Queries& queries;
  const Range& range;
  const int first_tile, last_tile;
  const Query (&own)[2];
  float units[2];
  WeighedValues<COLUMNS / 8> values;
  float sums[2] = {};

  DEVICE static int warp() { return threadIdx.x / 32; }
  DEVICE static int g() { return threadIdx.x % 32 / 4; }
  DEVICE static int c() { return threadIdx.x % 4; }
  DEVICE typename Tiles::Memory& memory_of(int tile) const { return memory.tiles[(tile - first_tile) % STAGES]; }

  // What there is not of a tile after the last one is a group of copies nonetheless, since those are counted.
  DEVICE void copy_keys(int tile) {
    if (tile <= last_tile) tiles.copy_keys(memory_of(tile), queries, range, tile);
    close_copy_group();
  }
  DEVICE void copy_values(int tile) {
    if (tile <= last_tile) tiles.copy_values(memory_of(tile), queries, range, tile);
    close_copy_group();
  }

  // Scores of this warp's keys, and the largest of each query for the other warps.
  DEVICE void score_keys(float (&scores)[2][4], int tile) {
    const int first = warp() * GROUP;
    const auto& stage = memory_of(tile);
    if (range.meets(tile * TILE + first, GROUP))
      multiply_keys<T, Tiles::WIDTH, 1>(scores, memory.queries[0][0], 16, Tiles::keys(stage) + first * (Tiles::WIDTH + 8),
                                        tiles.head_dim());
    score<Tiles>(scores[0], own, units, rules, stage, tile, first);
    score<Tiles>(scores[1], own, units, rules, stage, tile, first + 8);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = fmaxf(scores[0][2 * i], scores[0][2 * i + 1]), high = fmaxf(scores[1][2 * i], scores[1][2 * i + 1]);
      const float top = quad_max(fmaxf(low, high));
      if (c() == 0) memory.tops[warp()][g() + 8 * i] = top;
    }
  }

  // Scores of this warp's keys as weights, for all warps.
  DEVICE void weigh(const float (&scores)[2][4], int tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = g() + 8 * i;
      const float low = fmaxf(memory.tops[0][query], memory.tops[1][query]);
      const Step step(values.largest[i], fmaxf(low, fmaxf(memory.tops[2][query], memory.tops[3][query])));
      float weights[2][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weights[half][0] = step.weight(scores[half][2 * i]);
        weights[half][1] = step.weight(scores[half][2 * i + 1]);
        leave_weights(query, warp() * GROUP + half * 8 + 2 * c(), weights[half], tile);
      }
      sums[i] = fmaf(sums[i], step.factor, (weights[0][0] + weights[0][1]) + (weights[1][0] + weights[1][1]));
      values.scale(i, step.factor);
    }
  }
  DEVICE void leave_weights(int query, int key, const float (&weights)[2], int tile) {
    const auto& stage = memory_of(tile);
    u32 words[PARTS];
    pack_parts<T>(words, weights[0] * Tiles::value_scale(stage, key), weights[1] * Tiles::value_scale(stage, key + 1));
#pragma unroll
    for (int part = 0; part < PARTS; ++part) memory.weights[part][query][key / 2] = words[part];
  }

  // Adds the values of all keys, this warp's columns of them.
  DEVICE void add_values(int tile) {
    const int lane = threadIdx.x % 32, first = warp() * COLUMNS;
#pragma unroll
    for (int group = 0; group < TILE / GROUP; ++group) {
      if (!range.meets(tile * TILE + group * GROUP, GROUP)) continue;
      u32 weights[PARTS][4];
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
        load_matrices<false>(weights[part][0], weights[part][1], weights[part][2], weights[part][3],
                             &memory.weights[part][lane % 16][group * GROUP / 2 + lane / 16 * 4]);
      multiply_values<T, Tiles::WIDTH, COLUMNS / 16>(
          values.acc, weights, Tiles::values(memory_of(tile)) + group * GROUP * (Tiles::WIDTH + 8) + first,
          tiles.head_dim() - first);
    }
  }

  // A split's weights are summed up, of all warps; its values join those before it, or are left to merge_splits.
  DEVICE void end_split(int split, const Partials& partials, const Share& share, int heads) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = quad_sum(sums[i]);
      if (c() == 0) memory.sums[warp()][g() + 8 * i] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = g() + 8 * i;
      const float sum = (memory.sums[0][query] + memory.sums[1][query]) + (memory.sums[2][query] + memory.sums[3][query]);
      if (!share.is_whole()) {
        if (split >= own[i].first / SPLIT && split <= own[i].last / SPLIT) leave_split(i, split, sum, partials, share, heads);
        values.start_split(i);
        sums[i] = 0.0f;
        continue;
      }
      values.end_split(i, sum, 1.0f);
      sums[i] = 0.0f;
    }
  }
  DEVICE void leave_split(int i, int split, float sum, const Partials& partials, const Share& share, int heads) const {
    const int head_dim = tiles.head_dim(), row = queries.row(g() + 8 * i) - queries.first_row;
    float* at = partials.at(share.slot, share.splits, row, heads, own[i].head, split - own[i].first / SPLIT);
    if (warp() == 0 && c() == 0) at[head_dim] = values.largest[i], at[head_dim + 1] = sum;
    values.leave(i, at, warp() * COLUMNS, head_dim);
  }

  DEVICE void write(const Matrix& to) const {
    const int head_dim = tiles.head_dim();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = g() + 8 * i;
      if (!queries.has(query)) continue;
      const float factor = normalizer(values.totals[i], rules, own[i].head);
      values.write(i, to.row(queries.row(query)) + own[i].head * head_dim, factor, warp() * COLUMNS, head_dim);
    }
  }

  DEVICE void run(const Partials& partials, const Share& share, int heads) {
    for (int tile = first_tile; tile <= last_tile; ++tile) {
      wait_for_copies<AHEAD ? 0 : 1>();
      tiles.land_keys(memory_of(tile), range, tile);
      __syncthreads();
      if (AHEAD) copy_keys(tile + 1), copy_values(tile + 1);
      float scores[2][4] = {};
      score_keys(scores, tile);
      __syncthreads();
      if (!AHEAD) copy_keys(tile + 1);
      if (!AHEAD) wait_for_copies<1>();
      tiles.land_values(memory_of(tile), range, tile);
      weigh(scores, tile);
      __syncthreads();
      add_values(tile);
      if (!AHEAD) {
        __syncthreads();
        copy_values(tile + 1);
      }
      if (tile == last_tile || (tile + 1) * TILE % SPLIT == 0) end_split(tile * TILE / SPLIT, partials, share, heads);
    }
  }
};

// Sequences of more than `most_rows` are a prefill's.
template <class Tiles, int STAGES>
DEVICE void decode(const Matrix& to, const Matrix& q, const Tiles& tiles, const Sequences& seqs, const ScoreRules& rules,
                   const Partials& partials, int query_tiles, int most_rows) {
  using Memory = DecodeMemory<Tiles, STAGES>;
  DYNAMIC_SHARED(Memory, memory);
  const int block_x = blockIdx.x, spare = block_x - ((int)gridDim.x - partials.spare);
  const Tiling tiling{rules.group, 16, most_rows};
  const int tile = block_x % query_tiles;
  const Share share =
      spare < 0 ? own_share(seqs, rules, partials, tiling, block_x / query_tiles, tile, tile == 0 && blockIdx.y == 0)
                : spare_share(seqs, rules, partials, tiling, spare);
  if (share.seq < 0) return;
  const int first_row = seqs.starts[share.seq], rows = (int)seqs.starts[share.seq + 1] - first_row;
  const Queries queries{share.seq, first_row, (int)blockIdx.y, rules.group, rows * rules.group, share.tile * 16};
  if (rows > most_rows || !queries.has(0)) return;
  const Range range(queries, 0, 16, seqs, rules);
  const int first_split = max(range.first / SPLIT, share.begin), end_split = min(range.last / SPLIT + 1, share.end);
  if (first_split >= end_split) return;
  const int g = threadIdx.x % 32 / 4;
  const Query own[2] = {Query(queries, g, seqs, rules), Query(queries, g + 8, seqs, rules)};
  Decode<Tiles, STAGES> block{*memory, tiles, rules, queries, range, max(range.first, first_split * SPLIT) / TILE,
                              min(range.last, end_split * SPLIT - 1) / TILE, own, {}, {}};
  block.copy_keys(block.first_tile);
  block.copy_values(block.first_tile);
  load_queries<typename Tiles::T, Tiles::WIDTH, 32 * DECODE_WARPS>(memory->queries[0][0], memory->units, 16, q, queries,
                                                                  tiles.head_dim());
  __syncthreads();
  block.units[0] = memory->units[g];
  block.units[1] = memory->units[g + 8];
  block.run(partials, share, q.cols / tiles.head_dim());
  if (share.is_whole()) block.write(to);
}

#define DECODE(name, STAGES, ...)                                                                                    \
  KERNEL(128, 1) name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, Partials partials,      \
                      int tiles, int most_rows) {                                                                    \
    using Tiles = __VA_ARGS__;                                                                                       \
    decode<Tiles, STAGES>(to, q, Tiles{cache, seqs}, seqs, rules, partials, tiles, most_rows);                       \
  }                                                                                                                  \
  EXPORT(name)

DECODE(attention_decode_f16_64, 2, PagedTiles<f16, 64, DECODE_WARPS>)
DECODE(attention_decode_f16_128, 2, PagedTiles<f16, 128, DECODE_WARPS>)
DECODE(attention_decode_f16_256, 1, PagedTiles<f16, 256, DECODE_WARPS>)
DECODE(attention_decode_bf16_64, 2, PagedTiles<bf16, 64, DECODE_WARPS>)
DECODE(attention_decode_bf16_128, 2, PagedTiles<bf16, 128, DECODE_WARPS>)
DECODE(attention_decode_bf16_256, 1, PagedTiles<bf16, 256, DECODE_WARPS>)
DECODE(attention_decode_int8_64, 1, Int8Tiles<64, DECODE_WARPS>)
DECODE(attention_decode_int8_128, 1, Int8Tiles<128, DECODE_WARPS>)
DECODE(attention_decode_int8_256, 1, Int8Tiles<256, DECODE_WARPS>)
