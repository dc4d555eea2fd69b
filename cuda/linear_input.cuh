// What a weight takes of a row of x: numbers rounded to its dtype, or codes of eight bits. Made by a block of 256 threads, as
// many as whole slabs of cuda/gemm_format.cuh take, with zeros past the columns.
#pragma once
#include "device.cuh"

template <class T>
struct __align__(4 * sizeof(T)) FourOf {
  T numbers[4];
};

// Elements `first` .. `end` of those that a row becomes: whole vectors, where the row has them.
template <class T>
DEVICE void round_row(T* to, const float* row, int cols, int first, int end) {
  if (cols % 4 == 0 && (u64)row % 16 == 0) {
#pragma unroll 4
    for (int col = first + threadIdx.x * 4; col < end; col += 1024) {
      float4 from{0.0f, 0.0f, 0.0f, 0.0f};
      if (col < cols) from = *reinterpret_cast<const float4*>(row + col);
      void* place = to + col;
      *static_cast<FourOf<T>*>(place) = {{from_f32<T>(from.x), from_f32<T>(from.y), from_f32<T>(from.z), from_f32<T>(from.w)}};
    }
    return;
  }
  for (int col = first + threadIdx.x; col < end; col += 256) to[col] = from_f32<T>(col < cols ? row[col] : 0.0f);
}

// Codes, and their scale for every thread. With `for_int4`, each eight columns are in the order 0 2 4 6 1 3 5 7, as the halves
// of int4's bytes are.
DEVICE float quantize_row(i8* codes, const float* row, int cols, int end, bool for_int4) {
  __shared__ float scratch[8];
  float largest = 0.0f;
  int defect = 0;
#pragma unroll 8
  for (int col = threadIdx.x; col < cols; col += 256) {
    largest = fmaxf(largest, fabsf(row[col]));
    defect |= !(fabsf(row[col]) < infinity());
  }
  largest = block_max(largest, scratch);
  defect = __syncthreads_or(defect);
  const float inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
  for (int first = threadIdx.x; first < end; first += 1024) {
    // All four before the first store, which might be to the same place for all that a compiler knows.
    float values[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) values[k] = first + k * 256 < cols ? row[first + k * 256] : 0.0f;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int col = first + k * 256;
      if (col < end) codes[for_int4 ? col / 8 * 8 + col % 2 * 4 + col % 8 / 2 : col] = defect ? 0 : (i8)rintf(values[k] * inverse);
    }
  }
  return defect ? nan_f32() : largest / 127.0f;
}
