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
