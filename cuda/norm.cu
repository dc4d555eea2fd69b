// Norms of rows, with the addition to the residual stream before them where there is one. A block takes a run of columns: a row,
// or a part of it that is normed by itself.
//
//   round      a vector of four columns for every thread of the block
//   registers  of two rounds: everything that is read of them, weights too, before the first store and the first barrier
//   wider      runs go on in pairs of rounds, which are read once for the sum and once more for the result
//
// How many threads a block has is the width's affair alone (rust/cuda/src/backend.rs), and which thread adds which columns in which
// order too: where rows do not begin at 16 bytes, a vector is read as four numbers.
#include "device.cuh"

constexpr int kRounds = 2, kMostWarps = 32;

// Columns from `first` on, of a thread: zeros past the last.
template <bool VECTORS>
struct Columns {
  float of[kRounds][4];

  DEVICE static int column(int first, int round) { return first + (round * blockDim.x + threadIdx.x) * 4; }
  DEVICE static int in_registers() { return kRounds * blockDim.x * 4; }

  DEVICE void load(const float* run, int first, int cols) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int col = column(first, round);
      if (VECTORS) {
        float4 four{0.0f, 0.0f, 0.0f, 0.0f};
        if (col < cols) four = *reinterpret_cast<const float4*>(run + col);
        of[round][0] = four.x, of[round][1] = four.y, of[round][2] = four.z, of[round][3] = four.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) of[round][i] = col + i < cols ? run[col + i] : 0.0f;
      }
    }
  }
  DEVICE void store(float* run, int first, int cols) const {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int col = column(first, round);
      if (VECTORS) {
        const float4 four{of[round][0], of[round][1], of[round][2], of[round][3]};
        if (col < cols) *reinterpret_cast<float4*>(run + col) = four;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (col + i < cols) run[col + i] = of[round][i];
      }
    }
  }

  // Calls body(number, round, i) for those there are, in ascending order.
  template <class B>
  DEVICE void for_each(int first, int cols, B body) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (column(first, round) + i < cols) body(of[round][i], round, i);
  }
};

// What a block norms. Null pointers stand for what there is not.
struct Run {
  float* result;
  float* residual;
  const float* x;
  const float* weight;
  const float* bias;
  int cols;
  float eps;

  DEVICE bool has_vectors() const {
    return cols % 4 == 0 && ((u64)result | (u64)residual | (u64)x | (u64)weight | (u64)bias) % 16 == 0;
  }

  // x, or what the residual stream becomes.
  template <class C>
  DEVICE void read(C& values, int first) const {
    values.load(x, first, cols);
    if (!residual) return;
    C before;
    before.load(residual, first, cols);
    values.for_each(first, cols, [&](float& value, int round, int i) { value = before.of[round][i] + value; });
  }
};

// Scales of a thread's columns.
template <bool VECTORS>
struct Affine {
  Columns<VECTORS> weights, biases;

  DEVICE void load(const Run& run, int first) {
    weights.load(run.weight, first, run.cols);
    if (run.bias) biases.load(run.bias, first, run.cols);
  }
  DEVICE void write(const Run& run, Columns<VECTORS>& values, int first, float mean, float inverse) {
    values.for_each(first, run.cols, [&](float& value, int round, int i) {
      value = (value - mean) * inverse * weights.of[round][i];
      if (run.bias) value += biases.of[round][i];
    });
    values.store(run.result, first, run.cols);
  }
};

// The mean first, where it is taken off, then the mean of squared differences from it.
template <bool CENTRED, bool VECTORS>
DEVICE void norm_run(const Run& run) {
  __shared__ float sums[kMostWarps], squares[kMostWarps];
  typedef Columns<VECTORS> Own;
  const int cols = run.cols;
  const float* later = run.residual ? run.residual : run.x;
  Own values;
  Affine<VECTORS> affine;
  run.read(values, 0);
  affine.load(run, 0);
  if (run.residual) values.store(run.residual, 0, cols);
  float sum = 0.0f, square = 0.0f;
  auto add = [&](float& value, int, int) { CENTRED ? sum += value : square += value * value; };
  values.for_each(0, cols, add);
  for (int first = Own::in_registers(); first < cols; first += Own::in_registers()) {
    Own more;
    run.read(more, first);
    if (run.residual) more.store(run.residual, first, cols);
    more.for_each(first, cols, add);
  }
  float mean = 0.0f;
  if (CENTRED) {
    mean = block_sum(sum, sums) / cols;
    auto add_square = [&](float& value, int, int) { square = fmaf(value - mean, value - mean, square); };
    values.for_each(0, cols, add_square);
    for (int first = Own::in_registers(); first < cols; first += Own::in_registers()) {
      Own more;
      more.load(later, first, cols);
      more.for_each(first, cols, add_square);
    }
  }
  const float inverse = 1.0f / sqrtf(block_sum(square, squares) / cols + run.eps);
  affine.write(run, values, 0, mean, inverse);
  for (int first = Own::in_registers(); first < cols; first += Own::in_registers()) {
    values.load(later, first, cols);
    affine.load(run, first);
    affine.write(run, values, first, mean, inverse);
  }
}

template <bool CENTRED>
DEVICE void norm_run(const Run& run) {
  run.has_vectors() ? norm_run<CENTRED, true>(run) : norm_run<CENTRED, false>(run);
}

// x / sqrt(mean(x^2) + eps) * weight over a run of `width` columns of every row: grid (rows, columns / width).
KERNEL(1024) rms_norm(Matrix to, Matrix x, const float* weight, int width, float eps) {
  const int first = blockIdx.y * width;
  norm_run<false>({to.row(blockIdx.x) + first, nullptr, x.row(blockIdx.x) + first, weight, nullptr, width, eps});
}
EXPORT(rms_norm)

// residual += x, then its rms_norm over whole rows: grid (rows).
KERNEL(1024) add_rms_norm(Matrix to, Matrix residual, Matrix x, const float* weight, float eps) {
  const int row = blockIdx.x;
  norm_run<false>({to.row(row), residual.row(row), x.row(row), weight, nullptr, to.cols, eps});
}
EXPORT(add_rms_norm)

// (x - mean) / sqrt(variance + eps) * weight + bias over each run of `width` columns, with a weight and a bias of its own, and
// without a bias where it is null: grid (rows, columns / width).
KERNEL(1024) layer_norm(Matrix to, Matrix x, const float* weight, const float* bias, int width, float eps) {
  const int row = blockIdx.x, first = blockIdx.y * width;
  norm_run<true>({to.row(row) + first, nullptr, x.row(row) + first, weight + first, bias ? bias + first : bias, width, eps});
}
EXPORT(layer_norm)

// residual += x, then its layer_norm over whole rows: grid (rows).
KERNEL(1024) add_layer_norm(Matrix to, Matrix residual, Matrix x, const float* weight, const float* bias, float eps) {
  const int row = blockIdx.x;
  norm_run<true>({to.row(row), residual.row(row), x.row(row), weight, bias, to.cols, eps});
}
EXPORT(add_layer_norm)
