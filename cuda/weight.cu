// Weights as they are loaded: a checkpoint's rows become float32, and those what a format keeps of them.
//
//   checkpoint rows --decode--> float32 rows --encode--> rows `stride` apart, a multiple of 16 bytes, zeros past the columns
//
//   int8   codes [rows][stride]       scales float32 [rows]
//   int4   codes [rows][stride], the  scales float16 [rows][groups], zero points u8 [rows][groups]
//          even column in the low half of a byte
//
// The codes and scales are those that rust/ops/src/quantize.rs defines, to the bit.
#include "device.cuh"

// Rows first_row.. of a matrix whose elements lie row by row, or column by column, from_rows to a column, if transposed:
// grid (rows, ceil(columns / 1024)).
template <class T>
DEVICE void decode(Matrix to, const T* from, int transposed, i64 first_row, i64 from_rows) {
  const i64 row = first_row + blockIdx.x;
  float* result = to.row(blockIdx.x);
  const int end = min(to.cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256)
    result[col] = to_f32(from[transposed ? col * from_rows + row : row * to.cols + col]);
}

#define DECODE(T)                                                                                           \
  KERNEL(256) decode_##T(Matrix to, const T* from, int transposed, i64 first_row, i64 from_rows) {          \
    decode(to, from, transposed, first_row, from_rows);                                                     \
  }                                                                                                         \
  EXPORT(decode_##T)
typedef float f32;
DECODE(f32)
DECODE(f16)
DECODE(bf16)

// grid (rows, ceil(stride / 1024)).
template <class T>
DEVICE void encode(T* to, i64 stride, Matrix from) {
  const float* row = from.row(blockIdx.x);
  T* result = to + blockIdx.x * stride;
  const int end = min((int)stride, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256)
    result[col] = from_f32<T>(col < from.cols ? row[col] : 0.0f);
}

KERNEL(256) encode_f32(float* to, i64 stride, Matrix from) { encode(to, stride, from); }
EXPORT(encode_f32)
KERNEL(256) encode_f16(f16* to, i64 stride, Matrix from) { encode(to, stride, from); }
EXPORT(encode_f16)
KERNEL(256) encode_bf16(bf16* to, i64 stride, Matrix from) { encode(to, stride, from); }
EXPORT(encode_bf16)

// grid (rows): a row's scale is its largest magnitude over 127.
KERNEL(256) encode_int8(i8* to, i64 stride, float* scales, Matrix from) {
  __shared__ float scratch[8];
  const float* row = from.row(blockIdx.x);
  i8* codes = to + blockIdx.x * stride;
  float largest = 0.0f;
  int defect = 0;
  for (int col = threadIdx.x; col < from.cols; col += 256) {
    largest = fmaxf(largest, fabsf(row[col]));
    defect |= !(fabsf(row[col]) < infinity());
  }
  largest = block_max(largest, scratch);
  defect = __syncthreads_or(defect);
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  for (int col = threadIdx.x; col < stride; col += 256)
    codes[col] = col < from.cols && !defect ? (i8)rintf(row[col] * inverse) : 0;
  if (threadIdx.x == 0) scales[blockIdx.x] = defect ? nan_f32() : largest / 127.0f;
}
EXPORT(encode_int8)

// A warp a group: grid (rows, groups).
KERNEL(32)
encode_int4(u8* to, i64 stride, f16* scales, u8* zeros, int group_size, int symmetric, Matrix from) {
  const float* row = from.row(blockIdx.x);
  const int first = blockIdx.y * group_size, end = min(from.cols, first + group_size);
  float highest = 0.0f, lowest = 0.0f;
  int finite = 1;
  for (int col = first + threadIdx.x; col < end; col += 32) {
    highest = fmaxf(highest, row[col]);
    lowest = fminf(lowest, row[col]);
    finite &= fabsf(row[col]) < infinity();
  }
  highest = warp_max(highest);
  lowest = -warp_max(-lowest);
  finite = __ballot_sync(~0u, finite) == ~0u;
  const float step = symmetric ? (-lowest > highest ? lowest : highest) / -8.0f : (highest - lowest) / 15.0f;
  const f16 scale = from_f32<f16>(finite ? step : nan_f32());
  const float inverse = !finite || fabsf(step) < 1e-30f || to_f32(scale) == 0.0f ? 0.0f : 1.0f / to_f32(scale);
  const float zero = symmetric ? 8.0f : finite ? fminf(fmaxf(rintf(-lowest * inverse), 0.0f), 15.0f) : 0.0f;
  auto code = [&](int col) {
    const float value = col < end && finite ? row[col] : 0.0f;
    return (u32)fminf(fmaxf(rintf(value * inverse) + zero, 0.0f), 15.0f);
  };
  u8* codes = to + blockIdx.x * stride;
  for (int pair = first / 2 + threadIdx.x; pair < (first + group_size) / 2 && pair < stride; pair += 32)
    codes[pair] = (u8)(code(2 * pair) | code(2 * pair + 1) << 4);
  if (threadIdx.x == 0) {
    const i64 group = (i64)blockIdx.x * gridDim.y + blockIdx.y;
    scales[group] = scale;
    zeros[group] = (u8)zero;
  }
}
EXPORT(encode_int4)
