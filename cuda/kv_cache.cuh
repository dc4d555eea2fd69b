// The paged key/value cache of a layer.
//
//   keys    [block][kv head][token of the block][head_dim]     values the same
//   scales  [block][kv head][token of the block]               of keys and of values, for int8
#pragma once
#include "device.cuh"

// rust/cuda/src/kv_cache.rs has the same.
struct KvBlocks {
  void* keys;
  void* values;
  float* key_scales;
  float* value_scales;
  int num_kv_heads, head_dim, block_size, reserved;

  // The number of a slot's token among all tokens of all heads.
  DEVICE i64 token(u32 slot, int head) const {
    return ((i64)(slot / block_size) * num_kv_heads + head) * block_size + slot % block_size;
  }
};
