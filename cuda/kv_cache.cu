// Writes keys and values to the paged cache: grid (rows, kv heads), a warp a head.
#include "kv_cache.cuh"

template <class T>
DEVICE void write_dense(Matrix k, Matrix v, KvBlocks cache, const u32* slots) {
  const int head = blockIdx.y;
  const CachePlace place = cache.place_of_slot(slots[blockIdx.x], head);
  T* keys = cache.row<T>(cache.keys, place, cache.head_dim);
  T* values = cache.row<T>(cache.values, place, cache.head_dim);
  const float* key = k.row(blockIdx.x) + head * cache.head_dim;
  const float* value = v.row(blockIdx.x) + head * cache.head_dim;
  for (int i = threadIdx.x; i < cache.head_dim; i += 32) {
    keys[i] = from_f32<T>(key[i]);
    values[i] = from_f32<T>(value[i]);
  }
}

KERNEL(32) write_kv_f32(Matrix k, Matrix v, KvBlocks cache, const u32* slots) { write_dense<float>(k, v, cache, slots); }
EXPORT(write_kv_f32)
KERNEL(32) write_kv_f16(Matrix k, Matrix v, KvBlocks cache, const u32* slots) { write_dense<f16>(k, v, cache, slots); }
EXPORT(write_kv_f16)
KERNEL(32) write_kv_bf16(Matrix k, Matrix v, KvBlocks cache, const u32* slots) { write_dense<bf16>(k, v, cache, slots); }
EXPORT(write_kv_bf16)

// A row in eight bits, as rust/ops/src/quantize.rs defines it: the same codes and the same scale.
DEVICE void quantize_head(i8* codes, float* scale, const float* values, int n) {
  float largest = 0.0f;
  int finite = 1;
  for (int i = threadIdx.x; i < n; i += 32) {
    largest = fmaxf(largest, fabsf(values[i]));
    finite &= fabsf(values[i]) < infinity();
  }
  largest = warp_max(largest);
  finite = __ballot_sync(~0u, finite) == ~0u;
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  for (int i = threadIdx.x; i < n; i += 32) codes[i] = finite ? (i8)rintf(values[i] * inverse) : 0;
  if (threadIdx.x == 0) *scale = finite ? largest / 127.0f : nan_f32();
}

KERNEL(32) write_kv_int8(Matrix k, Matrix v, KvBlocks cache, const u32* slots) {
  const int head = blockIdx.y;
  const CachePlace place = cache.place_of_slot(slots[blockIdx.x], head);
  auto write = [&](u8* rows, u8* scales, const float* from) {
    quantize_head(cache.row<i8>(rows, place, cache.head_dim), cache.row<float>(scales, place, 1), from, cache.head_dim);
  };
  write(cache.keys, cache.key_scales, k.row(blockIdx.x) + head * cache.head_dim);
  write(cache.values, cache.value_scales, v.row(blockIdx.x) + head * cache.head_dim);
}
EXPORT(write_kv_int8)
