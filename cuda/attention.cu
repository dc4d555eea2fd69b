// Causal attention over the paged cache, a row of the batch at a time: for caches of float32, which the tensor cores would
// multiply as three numbers with six products for each, and for widths that they do not serve. attention_scalar.cuh has how.
#include "attention_scalar.cuh"

#define ATTENTION(name, T)                                                                                              \
  KERNEL(128, 1) name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, Partials partials) {          \
    attend(to, q, Paged<T>{cache, seqs}, rules, partials);                                                              \
  }                                                                                                                     \
  EXPORT(name)

ATTENTION(attention_f32, float)
ATTENTION(attention_f16, f16)
ATTENTION(attention_bf16, bf16)
ATTENTION(attention_int8, i8)

constexpr int MERGE_THREADS = 128;

// What a split counts for, relative to the largest maximum up to it, and its sum.
struct __align__(16) SplitFactors {
  float of_total, of_part, sum, largest;
};

// Those of a run of splits, one a thread, after `largest` of those before: the numbers that Fold has if it goes from one to the
// next. What follows is the last thread's `largest`.
DEVICE void find_factors(SplitFactors* factors, float* tops, const float* part, bool present, int head_dim, float largest) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float own = present ? part[head_dim] : -infinity(), sum = present ? part[head_dim + 1] : 0.0f;
  float top = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance <<= 1) {
    const float before = __shfl_up_sync(~0u, top, distance);
    if (lane >= distance) top = fmaxf(top, before);
  }
  if (lane == 31) tops[warp] = top;
  __syncthreads();
  for (int i = 0; i < warp; ++i) largest = fmaxf(largest, tops[i]);
  const float up_to_before = __shfl_up_sync(~0u, top, 1);
  const float before = lane ? fmaxf(largest, up_to_before) : largest, now = fmaxf(largest, top);
  const bool sees = own != -infinity();
  factors[threadIdx.x] = {sees ? expf(before - now) : 1.0f, sees ? expf(own - now) : 0.0f, sees ? sum : 0.0f, now};
  __syncthreads();
}

// Folds a column of the softmaxes of a row's splits, in ascending order: eight values are read ahead of their turn.
DEVICE float merge_column(Softmax& total, const float* first, int splits, int head_dim, int at) {
  __shared__ SplitFactors factors[MERGE_THREADS];
  __shared__ float tops[MERGE_THREADS / 32];
  const int stride = head_dim + 2;
  float out = 0.0f;
  for (int run = 0; run < splits; run += MERGE_THREADS) {
    const int count = min(MERGE_THREADS, splits - run), thread = threadIdx.x;
    const float* parts = first + (i64)run * stride;
    __syncthreads();
    find_factors(factors, tops, parts + thread * stride, thread < count, head_dim, total.largest);
    for (int i = 0; i < count; i += 8) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) values[k] = i + k < count && at < head_dim ? parts[(i + k) * stride + at] : 0.0f;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (i + k >= count) break;
        const SplitFactors factor = factors[i + k];
        total.sum = fmaf(total.sum, factor.of_total, factor.sum * factor.of_part);
        out = fmaf(out, factor.of_total, values[k] * factor.of_part);
      }
    }
    total.largest = factors[MERGE_THREADS - 1].largest;
  }
  return out;
}

// Folds the softmaxes of the rows whose blocks left them. grid (rows that there may be softmaxes of, query heads).
KERNEL(MERGE_THREADS) merge_splits(Matrix to, Sequences seqs, ScoreRules rules, Partials partials) {
  const int head = blockIdx.y, most_rows = partials.most_rows;
  const int seq = most_rows ? blockIdx.x / most_rows : sequence_of(seqs.starts, seqs.num_seqs, blockIdx.x);
  const int first_row = seqs.starts[seq], rows = (int)seqs.starts[seq + 1] - first_row;
  const int row = most_rows ? blockIdx.x % most_rows : blockIdx.x - first_row;
  if (most_rows && (rows > most_rows || row >= rows)) return;
  const int slot = partials.first_slots[seq];
  if (slot < 0) return;
  const int all = Extent(seqs, rules, Tiling{1, 1, 0x7fffffff}, seq).splits;
  const int splits = seqs.seen(first_row + row, seq, rules).splits(), head_dim = partials.head_dim;
  const float* first = partials.at(slot, all, row, gridDim.y, head, 0);
  for (int column = 0; column < head_dim; column += MERGE_THREADS) {
    const int at = column + threadIdx.x;
    Softmax total;
    const float out = merge_column(total, first, splits, head_dim, at);
    if (at < head_dim) to.row(first_row + row)[head * head_dim + at] = out * normalizer(total, rules, head);
  }
}
EXPORT(merge_splits)
