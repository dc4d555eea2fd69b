// Attention of a row's query heads in float32, whatever keys and values are kept in: a block takes a row, a KV head and up to
// four of its query heads, which share every read.
//
//   scores   a thread a key    [128 threads]x2 keys of the split . 4 queries in shared memory
//   softmax  over the split    weights in shared memory
//   values   a thread a column, keys in ascending order
#pragma once
#include "attention_shares.cuh"

constexpr int SCALAR_THREADS = 128, SCALAR_HEADS = 4, SCALAR_DIMS = 512;

DEVICE void unpack(float (&to)[8], const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}
template <class Half>
DEVICE void unpack(float (&to)[8], const Half* from) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const u32 all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = to_f32(Half{(u16)(all[i / 2] >> 16 * (i % 2))});
}
DEVICE void unpack(float (&to)[8], const i8* from) {
  const uint2 words = *reinterpret_cast<const uint2*>(from);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = (float)(i8)((i < 4 ? words.x : words.y) >> 8 * (i % 4));
}
DEVICE float element(float value) { return value; }
DEVICE float element(f16 value) { return to_f32(value); }
DEVICE float element(bf16 value) { return to_f32(value); }
DEVICE float element(i8 value) { return (float)value; }

// The keys and values of a paged cache.
template <class T>
struct Paged {
  using Element = T;
  KvBlocks cache;
  Sequences seqs;

  DEVICE int head_dim() const { return cache.head_dim; }
  DEVICE i64 token(int seq, int head, int position) const {
    const u32 block = seqs.block_table[(i64)seq * seqs.max_blocks + position / cache.block_size];
    return cache.place(block, head, position % cache.block_size);
  }
  DEVICE const T* key(i64 token, int) const { return cache.row<T>(cache.keys, token, cache.head_dim); }
  DEVICE const T* value(i64 token, int) const { return cache.row<T>(cache.values, token, cache.head_dim); }
  DEVICE float key_scale(i64 token) const { return cache.key_scales ? *cache.row<float>(cache.key_scales, token, 1) : 1.0f; }
  DEVICE float value_scale(i64 token) const {
    return cache.value_scales ? *cache.row<float>(cache.value_scales, token, 1) : 1.0f;
  }
};

// The keys and values of the rows themselves.
struct OwnRows {
  using Element = float;
  Matrix k, v;
  Sequences seqs;
  int dim;

  DEVICE int head_dim() const { return dim; }
  DEVICE i64 token(int seq, int, int position) const { return seqs.starts[seq] + position; }
  DEVICE const float* key(i64 token, int head) const { return k.row(token) + head * dim; }
  DEVICE const float* value(i64 token, int head) const { return v.row(token) + head * dim; }
  DEVICE float key_scale(i64) const { return 1.0f; }
  DEVICE float value_scale(i64) const { return 1.0f; }
};

// Dot products of a key with the queries, which are followed by zeros.
template <class T>
DEVICE void dots(float (&to)[SCALAR_HEADS], const T* key, const float (*queries)[SCALAR_DIMS], int head_dim, bool vectors) {
  for (int at = 0; at < head_dim; at += 8) {
    float elements[8];
    if (vectors) {
      unpack(elements, key + at);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) elements[i] = at + i < head_dim ? element(key[at + i]) : 0.0f;
    }
#pragma unroll
    for (int head = 0; head < SCALAR_HEADS; ++head)
#pragma unroll
      for (int i = 0; i < 8; ++i) to[head] = fmaf(elements[i], queries[head][at + i], to[head]);
  }
}

// The share of a block: a row is a tile.
DEVICE Share share_of_row(const Sequences& seqs, const ScoreRules& rules, const Partials& partials) {
  const Tiling tiling{1, 1, 0x7fffffff};
  const int row = blockIdx.x, spare = row - ((int)gridDim.x - partials.spare);
  if (spare >= 0) return spare_share(seqs, rules, partials, tiling, spare);
  const int seq = sequence_of(seqs.starts, seqs.num_seqs, row), tile = row - (int)seqs.starts[seq];
  return own_share(seqs, rules, partials, tiling, seq, tile, tile == 0 && blockIdx.y == 0);
}

// grid (rows + spare blocks, KV heads x ceil(group / 4)).
template <class Source>
DEVICE void attend(Matrix to, Matrix q, const Source& source, ScoreRules rules, Partials partials) {
  __shared__ __align__(16) float queries[SCALAR_HEADS][SCALAR_DIMS];
  __shared__ float weights[SCALAR_HEADS][SPLIT];
  __shared__ i64 tokens[SPLIT];
  __shared__ float scratch[2 * SCALAR_HEADS][SCALAR_THREADS / 32];
  const int chunks = (rules.group + SCALAR_HEADS - 1) / SCALAR_HEADS, kv_head = blockIdx.y / chunks;
  const int first_head = kv_head * rules.group + blockIdx.y % chunks * SCALAR_HEADS;
  const int heads = min(SCALAR_HEADS, (kv_head + 1) * rules.group - first_head), head_dim = source.head_dim();
  const Share share = share_of_row(source.seqs, rules, partials);
  if (share.seq < 0) return;
  const int seq = share.seq, row = source.seqs.starts[seq] + share.tile, thread = threadIdx.x;
  const Seen seen = source.seqs.seen(row, seq, rules);
  const int begin = max(seen.first_split(), share.begin), end = min(seen.first_split() + seen.splits(), share.end);
  if (begin >= end) return;
  for (int i = thread; i < SCALAR_HEADS * SCALAR_DIMS; i += SCALAR_THREADS) {
    const int head = i / SCALAR_DIMS, at = i % SCALAR_DIMS;
    queries[head][at] = head < heads && at < head_dim ? q.row(row)[(first_head + head) * head_dim + at] : 0.0f;
  }
  using T = typename Source::Element;
  const u64 alignment = (u64)source.key(1, kv_head) | (u64)source.key(0, kv_head);
  const bool vectors = head_dim % 8 == 0 && alignment % (sizeof(T) == 1 ? 8 : 16) == 0;

  Softmax totals[SCALAR_HEADS];
  float outs[SCALAR_HEADS][SCALAR_DIMS / SCALAR_THREADS] = {};
  for (int split = begin; split < end; ++split) {
    __syncthreads();
    float scores[SCALAR_HEADS][SPLIT / SCALAR_THREADS];
#pragma unroll
    for (int j = 0; j < SPLIT / SCALAR_THREADS; ++j) {
      const int place = thread + j * SCALAR_THREADS, position = split * SPLIT + place;
      const bool visible = position >= seen.first && position <= seen.last;
      float products[SCALAR_HEADS] = {};
      float scale = 0.0f;
      if (visible) {
        const i64 token = source.token(seq, kv_head, position);
        tokens[place] = token;
        scale = source.key_scale(token);
        dots(products, source.key(token, kv_head), queries, head_dim, vectors);
      }
#pragma unroll
      for (int head = 0; head < SCALAR_HEADS; ++head)
        scores[head][j] = visible && head < heads
                              ? rules.score(products[head] * scale, row, first_head + head, position - seen.position)
                              : -infinity();
    }
    Softmax parts[SCALAR_HEADS];
#pragma unroll
    for (int head = 0; head < SCALAR_HEADS; ++head) {
      if (head >= heads) continue;
      parts[head].largest = block_max(fmaxf(scores[head][0], scores[head][1]), scratch[2 * head]);
      const float first = expf(scores[head][0] - parts[head].largest);
      const float second = expf(scores[head][1] - parts[head].largest);
      weights[head][thread] = first;
      weights[head][thread + SCALAR_THREADS] = second;
      parts[head].sum = block_sum(first + second, scratch[2 * head + 1]);
    }
    // The barrier of the last sum has shown all weights to all threads, and tokens before them.
    float part[SCALAR_HEADS][SCALAR_DIMS / SCALAR_THREADS] = {};
    const int low = max(seen.first - split * SPLIT, 0), high = min(seen.last - split * SPLIT, SPLIT - 1);
    for (int place = low; place <= high; ++place) {
      const i64 token = tokens[place];
      const T* value = source.value(token, kv_head);
      const float scale = source.value_scale(token);
#pragma unroll
      for (int i = 0; i < SCALAR_DIMS / SCALAR_THREADS; ++i) {
        const int at = thread + i * SCALAR_THREADS;
        if (at >= head_dim) break;
        const float scaled = element(value[at]) * scale;
#pragma unroll
        for (int head = 0; head < SCALAR_HEADS; ++head)
          if (head < heads) part[head][i] = fmaf(weights[head][place], scaled, part[head][i]);
      }
    }
#pragma unroll
    for (int head = 0; head < SCALAR_HEADS; ++head) {
      if (head >= heads) continue;
      if (!share.is_whole()) {
        float* at = partials.at(share.slot, share.splits, share.tile, q.cols / head_dim, first_head + head,
                                split - seen.first_split());
        for (int i = 0; i < SCALAR_DIMS / SCALAR_THREADS; ++i)
          if (thread + i * SCALAR_THREADS < head_dim) at[thread + i * SCALAR_THREADS] = part[head][i];
        if (thread == 0) at[head_dim] = parts[head].largest, at[head_dim + 1] = parts[head].sum;
        continue;
      }
      const Fold fold(totals[head], parts[head]);
#pragma unroll
      for (int i = 0; i < SCALAR_DIMS / SCALAR_THREADS; ++i) outs[head][i] = fold(outs[head][i], part[head][i]);
    }
  }
  if (!share.is_whole()) return;
#pragma unroll
  for (int head = 0; head < SCALAR_HEADS; ++head) {
    if (head >= heads) continue;
    const float factor = normalizer(totals[head], rules, first_head + head);
    float* result = to.row(row) + (first_head + head) * head_dim;
#pragma unroll
    for (int i = 0; i < SCALAR_DIMS / SCALAR_THREADS; ++i)
      if (thread + i * SCALAR_THREADS < head_dim) result[thread + i * SCALAR_THREADS] = outs[head][i] * factor;
  }
}
