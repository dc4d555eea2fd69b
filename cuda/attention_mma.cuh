// Attention on the tensor cores: what a decode step's kernel and a prefill's have in common, so that a row has the same bits from
// both. Keys and values are numbers of 16 bits, or codes of eight with scales (attention_tiles.cuh).
//
//   A query is a row and one of the query heads of a KV head: 16 of them are the rows of a product.
//   Keys come in tiles of 64 positions, at multiples of 64; a tile in four groups of 16 keys.
//
//   scores   = query . keys             steps of 16 elements in ascending order, in each the query's parts from the least
//   largest' = max(largest, scores)     acc and sums times exp(largest - largest')
//   weights  = exp(scores - largest')   sums: one for each group and lane, brought together at the split's end
//   acc     += weights x values         groups in ascending order, in each the weights' parts from the least
//   at multiples of SPLIT: acc is folded into the total, or left to merge_splits
//
// Queries and weights are float32: as numbers of 16 bits they are sums of parts, whose products with keys and values are exact.
// Three parts of bf16 have all 24 bits, two of f16 have 22 (of queries brought to 1 .. 2 first), and weights are 1 at most.
#pragma once
#include "attention.cuh"
#include "ldmatrix.cuh"
#include "mma.cuh"

constexpr int TILE = 64, GROUP = 16;

// How many numbers of a type a float32 is the sum of.
template <class T>
constexpr int PARTS_OF = 0;
template <>
constexpr int PARTS_OF<bf16> = 3;
template <>
constexpr int PARTS_OF<f16> = 2;

// Two numbers as parts, the largest first, side by side in words.
template <class T>
DEVICE void pack_parts(u32 (&words)[PARTS_OF<T>], float first, float second) {
#pragma unroll
  for (int part = 0; part < PARTS_OF<T>; ++part) {
    const T low = from_f32<T>(first), high = from_f32<T>(second);
    words[part] = low.bits | (u32)high.bits << 16;
    first -= to_f32(low);
    second -= to_f32(high);
  }
}

// The power of two that brings numbers up to `largest` below 2, where there is one whose inverse is a number too.
DEVICE float unit_of(float largest) {
  const u32 exponent = __float_as_uint(largest) & 0x7f800000u;
  return exponent != 0 && exponent < 0x7f000000u ? __uint_as_float(exponent) : 1.0f;
}

// Queries of a sequence and a KV head: query i is of head i % group of row i / group.
struct Queries {
  int seq, first_row, kv_head, group, count;
  int first;  // the tile's first query

  DEVICE bool has(int i) const { return first + i < count; }
  DEVICE int row(int i) const { return first_row + (first + i) / group; }
  DEVICE int head(int i) const { return kv_head * group + (first + i) % group; }
};

// What a lane knows of a query.
struct Query {
  int position = 0, first = 0x7fffffff, last = -1, row = 0, head = 0;

  DEVICE Query() {}
  DEVICE Query(const Queries& queries, int i, const Sequences& seqs, const ScoreRules& rules) {
    if (!queries.has(i)) return;
    row = queries.row(i), head = queries.head(i);
    const Seen seen = seqs.seen(row, queries.seq, rules);
    position = seen.position, first = seen.first, last = seen.last;
  }
};

// The positions that any of `count` queries sees, by every lane of a warp.
struct Range {
  int first = 0x7fffffff, last = -1;

  DEVICE Range(const Queries& queries, int from, int count, const Sequences& seqs, const ScoreRules& rules) {
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      const Query query(queries, from + i, seqs, rules);
      first = min(first, query.first);
      last = max(last, query.last);
    }
#pragma unroll
    for (int distance = 16; distance; distance >>= 1) {
      first = min(first, __shfl_xor_sync(~0u, first, distance));
      last = max(last, __shfl_xor_sync(~0u, last, distance));
    }
  }
  DEVICE bool has(int position) const { return position >= first && position <= last; }
  DEVICE bool meets(int position, int count) const { return position <= last && position + count > first; }
};

// Brings `rows` queries to shared memory, [part][rows][WIDTH / 2 + 4 words], columns past the head's as zeros, and the powers
// of two they were divided by to `units`.
template <class T, int WIDTH, int THREADS>
DEVICE void load_queries(u32* to, float* units, int rows, Matrix q, const Queries& queries, int head_dim) {
  for (int i = threadIdx.x / 8; i < rows; i += THREADS / 8) {
    const float* from = queries.has(i) ? q.row(queries.row(i)) + queries.head(i) * head_dim : nullptr;
    float unit = 1.0f, inverse = 1.0f;
    if (PARTS_OF<T> == 2) {
      float largest = 0.0f;
      for (int at = threadIdx.x % 8; at < head_dim; at += 8) largest = fmaxf(largest, from ? fabsf(from[at]) : 0.0f);
#pragma unroll
      for (int distance = 4; distance; distance >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, distance));
      unit = unit_of(largest);
      inverse = 1.0f / unit;
    }
    for (int at = threadIdx.x % 8 * 2; at < WIDTH; at += 16) {
      const bool present = from && at < head_dim;
      u32 words[PARTS_OF<T>];
      pack_parts<T>(words, present ? from[at] * inverse : 0.0f, present ? from[at + 1] * inverse : 0.0f);
#pragma unroll
      for (int part = 0; part < PARTS_OF<T>; ++part)
        to[(part * rows + i) * (WIDTH / 2 + 4) + at / 2] = words[part];
    }
    if (threadIdx.x % 8 == 0) units[i] = unit;
  }
}

// The products of 16 queries with `PAIRS` times 16 keys: scores[2 * i] and [2 * i + 1] of pair i. Keys in parts lie
// [part][TILE][WIDTH + 8]; products of parts that are both small are left out.
template <class T, int WIDTH, int PAIRS, int KEY_PARTS = 1>
DEVICE void multiply_keys(float (&products)[2 * PAIRS][4], const u32* queries, int rows, const T* keys, int head_dim) {
  const int lane = threadIdx.x % 32;
  const u32* left_row = queries + lane % 16 * (WIDTH / 2 + 4) + lane / 16 * 4;
  const T* right_row = keys + (lane % 8 + lane / 16 * 8) * (WIDTH + 8) + lane / 8 % 2 * 8;
#pragma unroll
  for (int at = 0; at < WIDTH; at += 16) {
    if (at >= head_dim) break;
    u32 left[PARTS_OF<T>][4];
#pragma unroll
    for (int part = 0; part < PARTS_OF<T>; ++part)
      load_matrices<false>(left[part][0], left[part][1], left[part][2], left[part][3],
                           left_row + part * rows * (WIDTH / 2 + 4) + at / 2);
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair) {
#pragma unroll
      for (int key_part = KEY_PARTS - 1; key_part >= 0; --key_part) {
        u32 right[2][2];
        load_matrices<false>(right[0][0], right[0][1], right[1][0], right[1][1],
                             right_row + (key_part * TILE + pair * 16) * (WIDTH + 8) + at);
#pragma unroll
        for (int part = PARTS_OF<T> - 1 - key_part; part >= 0; --part) {
          mma(products[2 * pair], left[part], right[0], T());
          mma(products[2 * pair + 1], left[part], right[1], T());
        }
      }
    }
  }
}

// acc += weights of 16 keys x `PAIRS` times 16 columns of their values, parts as with multiply_keys.
template <class T, int WIDTH, int PAIRS, int VALUE_PARTS = 1>
DEVICE void multiply_values(float (&acc)[2 * PAIRS][4], const u32 (&weights)[PARTS_OF<T>][4], const T* values, int columns) {
  const int lane = threadIdx.x % 32;
  const T* row = values + lane % 16 * (WIDTH + 8) + lane / 16 * 8;
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    if (pair * 16 >= columns) break;
#pragma unroll
    for (int value_part = VALUE_PARTS - 1; value_part >= 0; --value_part) {
      u32 right[2][2];
      load_matrices<true>(right[0][0], right[0][1], right[1][0], right[1][1],
                          row + value_part * TILE * (WIDTH + 8) + pair * 16);
#pragma unroll
      for (int part = PARTS_OF<T> - 1 - value_part; part >= 0; --part) {
        mma(acc[2 * pair], weights[part], right[0], T());
        mma(acc[2 * pair + 1], weights[part], right[1], T());
      }
    }
  }
}

// Products become scores in place, -infinity where a query does not see the key: of the two queries that a lane has numbers
// of, and eight keys of a tile from `first` on.
template <class Tiles>
DEVICE void score(float (&products)[4], const Query (&queries)[2], const float (&units)[2], const ScoreRules& rules,
                  const typename Tiles::Memory& memory, int tile, int first) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Query& query = queries[i / 2];
    const int key = first + threadIdx.x % 4 * 2 + i % 2, position = tile * TILE + key;
    const bool visible = position >= query.first && position <= query.last;
    const float dot = products[i] * units[i / 2] * Tiles::key_scale(memory, key);
    products[i] = visible ? rules.score(dot, query.row, query.head, position - query.position) : -infinity();
  }
}

// The scores' part in a running softmax: `largest` moves up, scores become weights relative to it, and `factor` is what all
// before counts for. Nothing visible so far counts for nothing.
struct Step {
  float reference, factor;

  DEVICE Step(float& largest, float of_tile) {
    const float before = largest;
    largest = fmaxf(largest, of_tile);
    reference = largest == -infinity() ? 0.0f : largest;
    factor = exp_below(before - reference);
  }
  DEVICE float weight(float score) const { return exp_below(score - reference); }
};

// What a warp makes of the values of FRAGMENTS times eight columns, a lane for queries lane / 4 and lane / 4 + 8.
template <int FRAGMENTS>
struct WeighedValues {
  // Of a split: sums of weighed values, relative to the largest score.
  float acc[FRAGMENTS][4] = {}, largest[2] = {-infinity(), -infinity()};
  // Of the splits before it.
  float out[FRAGMENTS][4] = {};
  Softmax totals[2];

  // What has been summed up of the split counts for `factor`.
  DEVICE void scale(int i, float factor) {
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) acc[n][2 * i] *= factor, acc[n][2 * i + 1] *= factor;
  }

  // A split ends, whose weights' sum is `sum`. What was summed up counts in `unit`.
  DEVICE void end_split(int i, float sum, float unit) {
    const Fold fold(totals[i], Softmax(largest[i], sum));
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) {
      out[n][2 * i] = fold(out[n][2 * i], acc[n][2 * i] * unit);
      out[n][2 * i + 1] = fold(out[n][2 * i + 1], acc[n][2 * i + 1] * unit);
    }
    start_split(i);
  }
  DEVICE void start_split(int i) {
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) acc[n][2 * i] = acc[n][2 * i + 1] = 0.0f;
    largest[i] = -infinity();
  }

  // Leaves a split's values to merge_splits: columns from `first` on.
  DEVICE void leave(int i, float* to, int first, int head_dim) const {
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) {
      const int column = first + n * 8 + threadIdx.x % 4 * 2;
      if (column < head_dim) *reinterpret_cast<float2*>(to + column) = float2{acc[n][2 * i], acc[n][2 * i + 1]};
    }
  }

  // Writes a query's columns from `first` on, times `factor`.
  DEVICE void write(int i, float* result, float factor, int first, int head_dim) const {
#pragma unroll
    for (int n = 0; n < FRAGMENTS; ++n) {
      const int column = first + n * 8 + threadIdx.x % 4 * 2;
      if (column < head_dim) result[column] = out[n][2 * i] * factor, result[column + 1] = out[n][2 * i + 1] * factor;
    }
  }
};

DEVICE float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
DEVICE float quad_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}
