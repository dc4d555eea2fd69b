// Rows of an embedding table: grid (ids, ceil(columns / 1024)). Tables are weights in the layout of rust/cuda/src/weight.rs.
#include "device.cuh"

template <class F>
DEVICE void for_columns(int cols, F body) {
  const int end = min(cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256) body(col);
}

template <class T>
DEVICE void dense(Matrix to, const u32* ids, const T* table, i64 stride) {
  const T* row = table + ids[blockIdx.x] * stride;
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) { result[col] = to_f32(row[col]); });
}

KERNEL(256) embedding_f32(Matrix to, const u32* ids, const float* table, i64 stride) { dense(to, ids, table, stride); }
EXPORT(embedding_f32)
KERNEL(256) embedding_f16(Matrix to, const u32* ids, const f16* table, i64 stride) { dense(to, ids, table, stride); }
EXPORT(embedding_f16)
KERNEL(256) embedding_bf16(Matrix to, const u32* ids, const bf16* table, i64 stride) { dense(to, ids, table, stride); }
EXPORT(embedding_bf16)

KERNEL(256) embedding_int8(Matrix to, const u32* ids, const i8* codes, i64 stride, const float* scales) {
  const i8* row = codes + ids[blockIdx.x] * stride;
  const float scale = scales[ids[blockIdx.x]];
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) { result[col] = scale * (float)row[col]; });
}
EXPORT(embedding_int8)

// `stride` is in bytes, of two codes each; a row has `groups` scales and zero points.
KERNEL(256)
embedding_int4(Matrix to, const u32* ids, const u8* codes, i64 stride, const f16* scales, const u8* zeros, int groups,
               int group_size) {
  const i64 id = ids[blockIdx.x];
  const u8* row = codes + id * stride;
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) {
    const int code = row[col / 2] >> (col % 2 * 4) & 15;
    const i64 group = id * groups + col / group_size;
    result[col] = to_f32(scales[group]) * ((float)code - (float)zeros[group]);
  });
}
EXPORT(embedding_int4)
