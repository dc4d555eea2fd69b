// The paged key/value cache of a layer.
//
//   cache   [block][layers of the group][keys, values, scales of keys, scales of values]     scales: for int8
//   keys    [kv head][token of the block][head_dim]                                          values the same
//   scales  [kv head][token of the block]
//
// A block belongs to one group of layers at a time. What stands in it is that group's affair, so that all of a block's layers
// lie in the block's own bytes.
#pragma once
#include "device.cuh"

// Where a head keeps a token: a block, and a row of its keys. In the upper and the lower half of a number.
typedef i64 CachePlace;

// rust/cuda/src/kv_cache.rs has the same. Addresses are those of block 0.
struct KvBlocks {
  u8* keys;
  u8* values;
  u8* key_scales;
  u8* value_scales;
  i64 block_bytes;
  int num_kv_heads, head_dim, block_size, reserved;

  DEVICE CachePlace place(u32 block, int head, int token) const { return (i64)block << 32 | (u32)(head * block_size + token); }
  DEVICE CachePlace place_of_slot(u32 slot, int head) const { return place(slot / block_size, head, slot % block_size); }

  // Elements of type T that begin at `base` for block 0: rows of `width`.
  template <class T>
  DEVICE T* row(u8* base, CachePlace place, int width) const {
    return reinterpret_cast<T*>(base + (place >> 32) * block_bytes) + (i64)(u32)place * width;
  }
};

// What writes a head of a slot: a warp, rounding `values` to T.
template <class T>
DEVICE void write_head(const KvBlocks& cache, CachePlace place, bool is_key, const float* values) {
  T* to = cache.row<T>(is_key ? cache.keys : cache.values, place, cache.head_dim);
  for_each_of_lane(values, cache.head_dim, [&](int i, float value) { to[i] = from_f32<T>(value); });
}

// In eight bits, as rust/ops/src/quantize.rs defines it: the same codes and the same scale.
template <>
DEVICE void write_head<i8>(const KvBlocks& cache, CachePlace place, bool is_key, const float* values) {
  const int lane = threadIdx.x % 32;
  float largest = 0.0f;
  int finite = 1;
  for_each_of_lane(values, cache.head_dim, [&](int, float value) {
    largest = fmaxf(largest, fabsf(value));
    finite &= fabsf(value) < infinity();
  });
  largest = warp_max(largest);
  finite = __ballot_sync(~0u, finite) == ~0u;
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  i8* codes = cache.row<i8>(is_key ? cache.keys : cache.values, place, cache.head_dim);
  for_each_of_lane(values, cache.head_dim, [&](int i, float value) { codes[i] = finite ? (i8)rintf(value * inverse) : 0; });
  float* scale = cache.row<float>(is_key ? cache.key_scales : cache.value_scales, place, 1);
  if (lane == 0) *scale = finite ? largest / 127.0f : nan_f32();
}
