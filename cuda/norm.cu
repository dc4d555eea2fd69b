// Norms of rows, with the addition to the residual stream before them where there is one. A block takes a row.
#include "device.cuh"

// x / sqrt(mean(x^2) + eps) * weight over a run of `width` columns of every row: grid (rows, columns / width).
KERNEL(256) rms_norm(Matrix to, Matrix x, const float* weight, int width, float eps) {
  __shared__ float scratch[8];
  const float* from = x.row(blockIdx.x) + blockIdx.y * width;
  float* result = to.row(blockIdx.x) + blockIdx.y * width;
  float squares = 0.0f;
  for (int col = threadIdx.x; col < width; col += 256) squares += from[col] * from[col];
  const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
  for (int col = threadIdx.x; col < width; col += 256) result[col] = from[col] * inverse * weight[col];
}
EXPORT(rms_norm)

// residual += x, then its rms_norm over whole rows: grid (rows).
KERNEL(256) add_rms_norm(Matrix to, Matrix residual, Matrix x, const float* weight, float eps) {
  __shared__ float scratch[8];
  float* sum = residual.row(blockIdx.x);
  const float* term = x.row(blockIdx.x);
  float squares = 0.0f;
  for (int col = threadIdx.x; col < to.cols; col += 256) {
    const float value = sum[col] + term[col];
    sum[col] = value;
    squares += value * value;
  }
  const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / to.cols + eps);
  float* result = to.row(blockIdx.x);
  for (int col = threadIdx.x; col < to.cols; col += 256) result[col] = sum[col] * inverse * weight[col];
}
EXPORT(add_rms_norm)

// The mean first, then the mean of squared differences from it, of a run of `cols` columns.
DEVICE void layer_norm_run(float* result, const float* run, const float* weight, const float* bias, int cols, float eps) {
  __shared__ float sums[8], squares[8];
  float sum = 0.0f;
  for (int col = threadIdx.x; col < cols; col += 256) sum += run[col];
  const float mean = block_sum(sum, sums) / cols;
  float square = 0.0f;
  for (int col = threadIdx.x; col < cols; col += 256) square = fmaf(run[col] - mean, run[col] - mean, square);
  const float inverse = 1.0f / sqrtf(block_sum(square, squares) / cols + eps);
  for (int col = threadIdx.x; col < cols; col += 256) {
    const float value = (run[col] - mean) * inverse * weight[col];
    result[col] = bias ? value + bias[col] : value;
  }
}

// (x - mean) / sqrt(variance + eps) * weight + bias over each run of `width` columns, with a weight and a bias of its own, and
// without a bias where it is null: grid (rows, columns / width).
KERNEL(256) layer_norm(Matrix to, Matrix x, const float* weight, const float* bias, int width, float eps) {
  const int first = blockIdx.y * width;
  layer_norm_run(to.row(blockIdx.x) + first, x.row(blockIdx.x) + first, weight + first, bias ? bias + first : bias, width, eps);
}
EXPORT(layer_norm)

// residual += x, then its layer_norm over whole rows: grid (rows). A thread's columns are its own until the first barrier.
KERNEL(256) add_layer_norm(Matrix to, Matrix residual, Matrix x, const float* weight, const float* bias, float eps) {
  float* sum = residual.row(blockIdx.x);
  const float* term = x.row(blockIdx.x);
  for (int col = threadIdx.x; col < to.cols; col += 256) sum[col] += term[col];
  layer_norm_run(to.row(blockIdx.x), sum, weight, bias, to.cols, eps);
}
EXPORT(add_layer_norm)
