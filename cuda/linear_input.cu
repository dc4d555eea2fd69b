// Activations as a weight takes them: rounded to its dtype, or codes of eight bits with a scale a row. Rows are `stride`
// elements apart, whole slabs of cuda/gemm_format.cuh, with zeros past the columns.
#include "device.cuh"

// grid (rows, ceil(stride / 1024)).
template <class T>
DEVICE void round_row(T* to, i64 stride, Matrix x) {
  const float* row = x.row(blockIdx.x);
  T* result = to + blockIdx.x * stride;
  const int end = min((int)stride, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256)
    result[col] = from_f32<T>(col < x.cols ? row[col] : 0.0f);
}

KERNEL(256) input_f32(float* to, i64 stride, Matrix x) { round_row(to, stride, x); }
EXPORT(input_f32)
KERNEL(256) input_f16(f16* to, i64 stride, Matrix x) { round_row(to, stride, x); }
EXPORT(input_f16)
KERNEL(256) input_bf16(bf16* to, i64 stride, Matrix x) { round_row(to, stride, x); }
EXPORT(input_bf16)

// grid (rows). With `for_int4`, each eight columns are in the order 0 2 4 6 1 3 5 7, as the halves of int4's bytes are.
KERNEL(256) input_int8(i8* to, i64 stride, float* scales, Matrix x, int for_int4) {
  __shared__ float scratch[8];
  const float* row = x.row(blockIdx.x);
  i8* codes = to + blockIdx.x * stride;
  float largest = 0.0f;
  int defect = 0;
  for (int col = threadIdx.x; col < x.cols; col += 256) {
    largest = fmaxf(largest, fabsf(row[col]));
    defect |= !(fabsf(row[col]) < infinity());
  }
  largest = block_max(largest, scratch);
  defect = __syncthreads_or(defect);
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  for (int col = threadIdx.x; col < stride; col += 256) {
    const i8 code = col < x.cols && !defect ? (i8)rintf(row[col] * inverse) : 0;
    codes[for_int4 ? col / 8 * 8 + col % 2 * 4 + col % 8 / 2 : col] = code;
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = defect ? nan_f32() : largest / 127.0f;
}
EXPORT(input_int8)
