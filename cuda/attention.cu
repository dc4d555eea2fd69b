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

// Folds the softmaxes of a row's splits, in ascending order. grid (rows that there are partial softmaxes of, query heads).
KERNEL(128) merge_splits(Matrix to, Sequences seqs, ScoreRules rules, Partials partials) {
  const int head = blockIdx.y, most_rows = partials.most_rows;
  const int seq = most_rows ? blockIdx.x / most_rows : sequence_of(seqs.starts, seqs.num_seqs, blockIdx.x);
  const int first_row = seqs.starts[seq], rows = (int)seqs.starts[seq + 1] - first_row;
  const int row = most_rows ? first_row + blockIdx.x % most_rows : blockIdx.x;
  if (most_rows && (rows > most_rows || row - first_row >= rows)) return;
  const int splits = seqs.seen(row, seq, rules).splits();
  const float* first = partials.at(blockIdx.x, gridDim.y, head, 0);
  float* result = to.row(row) + head * partials.head_dim;
  for (int at = threadIdx.x; at < partials.head_dim; at += 128) {
    Softmax total;
    float out = 0.0f;
    for (int split = 0; split < splits; ++split) {
      const float* part = first + split * (partials.head_dim + 2);
      const Fold fold(total, Softmax{part[partials.head_dim], part[partials.head_dim + 1]});
      out = fold(out, part[at]);
    }
    result[at] = out * normalizer(total, rules, head);
  }
}
EXPORT(merge_splits)
