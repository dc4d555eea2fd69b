// A linear layer after its products: scales of quantized operands, the bias, and the activation or gate that follows.
//
//   tile row    0 .. 15   16 .. 31   32 .. 47   48 .. 63            of a plain layer: the weight's rows, as they are
//   gated       gate 0..  up 0..     gate 16..  up 16..             gate and up of a column meet in one lane
#pragma once
#include "activation.cuh"
#include "gemm.cuh"

// rust/cuda/src/linear.rs has the same.
struct LinearOperands {
  Matrix to;
  GemmOperands gemm;
  const float* x_scales;  // of quantized rows
  const float* bias;      // or null
  void* part_sums;        // [parts][rows][weight rows], where a part a block is taken
  int weight_rows;
  int activation;  // or negative
  int gated;
  int reserved;

  // The column of the result at a row of the tiles.
  DEVICE int column(int tile_row) const { return gated ? tile_row / 32 * 16 + tile_row % 16 : tile_row; }
  // The weight's row there, and one that there is beyond the last.
  DEVICE int weight_row(int tile_row) const {
    return min(column(tile_row), to.cols - 1) + (gated && tile_row / 16 % 2 ? to.cols : 0);
  }
  DEVICE int x_row(int row) const { return min(row, to.rows - 1); }

  template <class T, class Sum>
  DEVICE float value(Sum sum, int weight, int x) const;

  // `sum` is that of the column in row `x`, or of its gate, and then `up` that of the other half.
  template <class T, class Sum>
  DEVICE void store(int col, int x, Sum sum, Sum up) const {
    if (col >= to.cols || x >= to.rows) return;
    float result = value<T>(sum, col, x);
    if (activation >= 0) result = activate(result, activation);
    if (gated) result *= value<T>(up, col + to.cols, x);
    to.row(x)[col] = result;
  }
};

// What a sum of products stands for, by the format of the weight.
template <class T>
struct Scaled {
  DEVICE static float value(const LinearOperands&, float sum, int, int) { return sum; }
};
template <>
struct Scaled<i8> {
  DEVICE static float value(const LinearOperands& of, int sum, int weight, int x) {
    return (float)sum * (static_cast<const float*>(of.gemm.scales.scales)[weight] * of.x_scales[x]);
  }
};
template <int group_size>
struct Scaled<Int4<group_size>> {
  DEVICE static float value(const LinearOperands& of, float sum, int, int x) { return sum * of.x_scales[x]; }
};

template <class T, class Sum>
DEVICE float LinearOperands::value(Sum sum, int weight, int x) const {
  const float scaled = Scaled<T>::value(*this, sum, weight, x);
  return bias ? scaled + bias[weight] : scaled;
}

// Kernels for every format: KERNEL_OF(T, name).
#define FOR_FORMATS(KERNEL_OF)    \
  KERNEL_OF(float, f32)           \
  KERNEL_OF(f16, f16)             \
  KERNEL_OF(bf16, bf16)           \
  KERNEL_OF(i8, int8)             \
  KERNEL_OF(Int4<32>, int4_g32)   \
  KERNEL_OF(Int4<64>, int4_g64)   \
  KERNEL_OF(Int4<128>, int4_g128)
