// Activations as a weight takes them: linear_input.cuh has how. Rows are `stride` elements apart.
#include "linear_input.cuh"

// grid (rows, ceil(stride / 1024)).
template <class T>
DEVICE void round_rows(T* to, i64 stride, Matrix x) {
  const int first = blockIdx.y * 1024;
  round_row(to + blockIdx.x * stride, x.row(blockIdx.x), x.cols, first, min((int)stride, first + 1024));
}

KERNEL(256) input_f32(float* to, i64 stride, Matrix x) { round_rows(to, stride, x); }
EXPORT(input_f32)
KERNEL(256) input_f16(f16* to, i64 stride, Matrix x) { round_rows(to, stride, x); }
EXPORT(input_f16)
KERNEL(256) input_bf16(bf16* to, i64 stride, Matrix x) { round_rows(to, stride, x); }
EXPORT(input_bf16)

// grid (rows).
KERNEL(256) input_int8(i8* to, i64 stride, float* scales, Matrix x, int for_int4) {
  const float scale = quantize_row(to + blockIdx.x * stride, x.row(blockIdx.x), x.cols, (int)stride, for_int4);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}
EXPORT(input_int8)
