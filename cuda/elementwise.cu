// Ops on every element by itself. A block takes 1024 columns of a row: grid (rows, ceil(columns / 1024)).
#include "activation.cuh"

template <class F>
DEVICE void for_columns(int cols, F body) {
  const int first = blockIdx.y * 1024 + threadIdx.x;
  const int end = min(cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = first; col < end; col += 256) body(col);
}

KERNEL(256) activation(Matrix to, Matrix x, int activation) {
  const float* from = x.row(blockIdx.x);
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) { result[col] = activate(from[col], activation); });
}
EXPORT(activation)

// gate_up: gate in the first to.cols columns, up in the rest.
KERNEL(256) gated_activation(Matrix to, Matrix gate_up, int activation) {
  const float* gate = gate_up.row(blockIdx.x);
  const float* up = gate + to.cols;
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) { result[col] = activate(gate[col], activation) * up[col]; });
}
EXPORT(gated_activation)

KERNEL(256) add_assign(Matrix x, Matrix y) {
  float* sum = x.row(blockIdx.x);
  const float* term = y.row(blockIdx.x);
  for_columns(x.cols, [&](int col) { sum[col] += term[col]; });
}
EXPORT(add_assign)

KERNEL(256) mul_assign(Matrix x, Matrix y) {
  float* product = x.row(blockIdx.x);
  const float* factor = y.row(blockIdx.x);
  for_columns(x.cols, [&](int col) { product[col] *= factor[col]; });
}
EXPORT(mul_assign)

KERNEL(256) scale(Matrix x, float factor) {
  float* values = x.row(blockIdx.x);
  for_columns(x.cols, [&](int col) { values[col] *= factor; });
}
EXPORT(scale)

KERNEL(256) clamp(Matrix x, float limit) {
  float* values = x.row(blockIdx.x);
  // Comparisons, because fminf and fmaxf would make a number of NaN.
  for_columns(x.cols, [&](int col) {
    const float value = values[col];
    values[col] = value > limit ? limit : value < -limit ? -limit : value;
  });
}
EXPORT(clamp)

KERNEL(256) soft_cap(Matrix x, float cap) {
  float* values = x.row(blockIdx.x);
  for_columns(x.cols, [&](int col) { values[col] = cap * tanhf(values[col] / cap); });
}
EXPORT(soft_cap)

KERNEL(256) gather_rows(Matrix to, Matrix from, const u32* rows) {
  const float* source = from.row(rows[blockIdx.x]);
  float* result = to.row(blockIdx.x);
  for_columns(to.cols, [&](int col) { result[col] = source[col]; });
}
EXPORT(gather_rows)

// The columns of `part` over the first ones of every head of x.
KERNEL(256) fill_heads(Matrix x, Matrix part, int head_dim) {
  const float* from = part.row(blockIdx.x);
  float* heads = x.row(blockIdx.x);
  for_columns(x.cols, [&](int col) {
    const int within = col % head_dim;
    if (within < part.cols) heads[col] = from[within];
  });
}
EXPORT(fill_heads)
