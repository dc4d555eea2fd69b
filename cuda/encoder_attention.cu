// Attention among the rows of each sequence, to both sides. Keys and values are activations in float32: on the tensor cores they
// are sums of two f16 each, made once for all queries.
//
//   split_rows    a tile of 64 rows of a sequence x KV head x (keys | values):  largest -> unit, a power of two
//                 parts [slot][kv head][keys | values][2][64][WIDTH] = numbers / unit, slot = start / 64 + sequence + tile
//   encoder_attention_*    attention_prefill.cuh
//   encoder_attention      a row at a time, for heads of any width: attention_scalar.cuh
#include "attention_prefill.cuh"
#include "attention_scalar.cuh"

constexpr int TILE_THREADS = 128;

// The parts of all tiles, and the unit of each.
struct SplitRows {
  f16* parts;
  float* units;
  int num_kv_heads, head_dim;

  // The number of a sequence's tile among those of all: the slots of a sequence end where the next one's begin, or before.
  DEVICE i64 number(const Sequences& seqs, int seq, int tile, int kv_head, int which) const {
    return ((i64)(seqs.starts[seq] / TILE + seq + tile) * num_kv_heads + kv_head) * 2 + which;
  }
};

template <int WIDTH_>
struct OwnTiles {
  using T = f16;
  static constexpr int WIDTH = WIDTH_, PARTS = 2;
  struct Memory {
    T keys[PARTS][TILE][WIDTH + 8];
    T values[PARTS][TILE][WIDTH + 8];
  };
  SplitRows rows;
  Sequences seqs;

  DEVICE int head_dim() const { return rows.head_dim; }
  DEVICE void copy(f16* to, const Queries& queries, int tile, int which) const {
    const f16* from = rows.parts + rows.number(seqs, queries.seq, tile, queries.kv_head, which) * (PARTS * TILE * WIDTH);
    // Of more at once, NVRTC would leave addresses in memory.
#pragma unroll 2
    for (int i = threadIdx.x; i < PARTS * TILE * WIDTH / 8; i += TILE_THREADS)
      copy_async_16(to + i / (WIDTH / 8) * (WIDTH + 8) + i % (WIDTH / 8) * 8, from + i * 8, true);
  }
  DEVICE void copy_keys(Memory& to, const Queries& queries, const Range&, int tile) const {
    copy(to.keys[0][0], queries, tile, 0);
  }
  DEVICE void copy_values(Memory& to, const Queries& queries, const Range&, int tile) const {
    copy(to.values[0][0], queries, tile, 1);
  }
  DEVICE void land_keys(Memory&, const Range&, int) const {}
  DEVICE void land_values(Memory&, const Range&, int) const {}
  DEVICE static const T* keys(const Memory& memory) { return memory.keys[0][0]; }
  DEVICE static const T* values(const Memory& memory) { return memory.values[0][0]; }
  DEVICE static float key_scale(const Memory&, int) { return 1.0f; }
  DEVICE static float value_scale(const Memory&, int) { return 1.0f; }
  DEVICE float key_unit(const Queries& queries, int tile) const {
    return rows.units[rows.number(seqs, queries.seq, tile, queries.kv_head, 0)];
  }
  DEVICE float value_unit(const Queries& queries, int tile) const {
    return rows.units[rows.number(seqs, queries.seq, tile, queries.kv_head, 1)];
  }
};

// grid (tiles of all sequences, KV heads, 2). Rows and columns that are not there become zeros.
template <int WIDTH>
DEVICE void split_rows(const Matrix& k, const Matrix& v, const SplitRows& to, const Sequences& seqs) {
  __shared__ float scratch[TILE_THREADS / 32];
  ScoreRules one_head{};
  one_head.group = 1;
  const Queries rows = find_queries(seqs, one_head, blockIdx.x, blockIdx.y, 0);
  const float* from = (blockIdx.z == 0 ? k.data : v.data) + blockIdx.y * to.head_dim;
  const i64 stride = blockIdx.z == 0 ? k.stride : v.stride;
  const auto number = [&](int row, int at) {
    return rows.has(row) && at < to.head_dim ? from[rows.row(row) * stride + at] : 0.0f;
  };
  float largest = 0.0f;
  for (int i = threadIdx.x; i < TILE * WIDTH; i += TILE_THREADS) largest = fmaxf(largest, fabsf(number(i / WIDTH, i % WIDTH)));
  const float unit = unit_of(block_max(largest, scratch)), inverse = 1.0f / unit;
  const i64 tile = to.number(seqs, rows.seq, rows.first / TILE, blockIdx.y, blockIdx.z);
  if (threadIdx.x == 0) to.units[tile] = unit;
  u32* parts = reinterpret_cast<u32*>(to.parts + tile * (2 * TILE * WIDTH));
  for (int i = threadIdx.x; i < TILE * WIDTH / 2; i += TILE_THREADS) {
    const int row = i / (WIDTH / 2), at = i % (WIDTH / 2) * 2;
    u32 words[2];
    pack_parts<f16>(words, number(row, at) * inverse, number(row, at + 1) * inverse);
    parts[i] = words[0];
    parts[TILE * WIDTH / 2 + i] = words[1];
  }
}

#define ENCODER(WIDTH)                                                                                                  \
  KERNEL(128) split_rows_##WIDTH(Matrix k, Matrix v, SplitRows rows, Sequences seqs) {                                  \
    split_rows<WIDTH>(k, v, rows, seqs);                                                                                \
  }                                                                                                                     \
  EXPORT(split_rows_##WIDTH)                                                                                            \
  KERNEL(128, 2) encoder_attention_##WIDTH(Matrix to, Matrix q, SplitRows rows, Sequences seqs, ScoreRules rules) {     \
    prefill(to, q, OwnTiles<WIDTH>{rows, seqs}, seqs, rules, 0);                                                        \
  }                                                                                                                     \
  EXPORT(encoder_attention_##WIDTH)

ENCODER(64)
ENCODER(128)

// grid (rows, KV heads x ceil(group / 4)).
KERNEL(128, 1) encoder_attention(Matrix to, Matrix q, Matrix k, Matrix v, Sequences seqs, int head_dim, ScoreRules rules) {
  attend(to, q, OwnRows{k, v, seqs, head_dim}, rules, Partials{});
}
EXPORT(encoder_attention)
