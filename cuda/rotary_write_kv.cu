// From the projection of queries, keys and values to what attention reads, in one launch: grid (rows, ceil(heads / 4)), a warp
// for each head of a query, a key or a value.
//
//   q k v  ──► shared memory ──► norm ──► turn ──┬──► q, in place
//              (a head a warp)   (q, k)  (q, k)  └──► the cache, rounded to its dtype: k, v
#include "kv_cache.cuh"
#include "rotary.cuh"

// rust/cuda/src/kv_cache.rs has the same. Null pointers stand for what there is not.
struct HeadRules {
  const float* q_norm;
  const float* k_norm;
  const float* cosines;
  const float* sines;
  const u32* positions;
  float eps;
  int pairs;
};

// Divides a head by its root mean square, in place. Lanes have elements of their own.
DEVICE void norm_head(float* head, const float* weight, int head_dim, float eps) {
  const int lane = threadIdx.x % 32;
  float squares = 0.0f;
  for (int i = lane; i < head_dim; i += 32) squares += head[i] * head[i];
  const float inverse = 1.0f / sqrtf(warp_sum(squares) / head_dim + eps);
  for_each_of_lane(weight, head_dim, [&](int i, float factor) { head[i] = head[i] * inverse * factor; });
}

template <class T>
DEVICE void rotary_write_kv(Matrix q, Matrix k, Matrix v, KvBlocks cache, const u32* slots, HeadRules rules) {
  DYNAMIC_SHARED(float, heads);
  const int lane = threadIdx.x % 32, head_dim = cache.head_dim, num_heads = q.cols / head_dim;
  const i64 row = blockIdx.x;
  const i64 angles = rules.cosines ? (i64)rules.positions[row] * rules.pairs : 0;
  // Which head of all: first those of the query, then of the key, then of the value.
  int index = blockIdx.y * 4 + threadIdx.x / 32;
  const bool is_query = index < num_heads, is_key = !is_query && index < num_heads + cache.num_kv_heads;
  if (!is_query) index -= is_key ? num_heads : num_heads + cache.num_kv_heads;
  if (!is_query && index >= cache.num_kv_heads) return;

  float* from = (is_query ? q : is_key ? k : v).row(row) + index * head_dim;
  float* head = heads + threadIdx.x / 32 * head_dim;
  for_each_of_lane(from, head_dim, [&](int i, float value) { head[i] = value; });
  const float* weight = is_query ? rules.q_norm : rules.k_norm;
  if (weight && (is_query || is_key)) norm_head(head, weight, head_dim, rules.eps);
  __syncwarp();
  if (rules.cosines && (is_query || is_key)) {
    for (int first = lane; first < rules.pairs; first += 128) {
      float cosines[4], sines[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const i64 at = angles + min(first + k * 32, rules.pairs - 1);
        cosines[k] = rules.cosines[at], sines[k] = rules.sines[at];
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (first + k * 32 < rules.pairs) turn_pair(head, first + k * 32, rules.pairs, cosines[k], sines[k]);
    }
  }
  __syncwarp();
  if (is_query) {
    for_each_of_lane(head, head_dim, [&](int i, float value) { from[i] = value; });
  } else {
    write_head<T>(cache, cache.place_of_slot(slots[row], index), is_key, head);
  }
}

#define ROTARY_WRITE_KV(suffix, T)                                                                                    \
  KERNEL(128) rotary_write_kv_##suffix(Matrix q, Matrix k, Matrix v, KvBlocks cache, const u32* slots, HeadRules rules) { \
    rotary_write_kv<T>(q, k, v, cache, slots, rules);                                                                     \
  }                                                                                                                       \
  EXPORT(rotary_write_kv_##suffix)
ROTARY_WRITE_KV(f32, float)
ROTARY_WRITE_KV(f16, f16)
ROTARY_WRITE_KV(bf16, bf16)
ROTARY_WRITE_KV(int8, i8)
