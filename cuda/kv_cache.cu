// Writes keys and values to the paged cache: grid (rows, kv heads), a warp for a head's key and its value.
#include "kv_cache.cuh"

template <class T>
DEVICE void write_kv(Matrix k, Matrix v, KvBlocks cache, const u32* slots) {
  const int head = blockIdx.y;
  const CachePlace place = cache.place_of_slot(slots[blockIdx.x], head);
  write_head<T>(cache, place, true, k.row(blockIdx.x) + head * cache.head_dim);
  write_head<T>(cache, place, false, v.row(blockIdx.x) + head * cache.head_dim);
}

#define WRITE_KV(suffix, T)                                                               \
  KERNEL(32) write_kv_##suffix(Matrix k, Matrix v, KvBlocks cache, const u32* slots) { \
    write_kv<T>(k, v, cache, slots);                                                      \
  }                                                                                       \
  EXPORT(write_kv_##suffix)
WRITE_KV(f32, float)
WRITE_KV(f16, f16)
WRITE_KV(bf16, bf16)
WRITE_KV(int8, i8)
