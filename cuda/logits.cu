// Logits before a token is drawn from them: masks, bias and penalties, in the order of rust/engine/src/sampler/processors.rs.
#include "sampling.cuh"

// A token, and what is done with its logit: a bias (bits of a float32), or how often the output has it.
struct Edit {
  u32 token_id, value;
};

// Where a row's edits are, one kind after another; `restricts`: all but the first kind's tokens are masked.
// rust/cuda/src/logits.rs has the same.
struct RowEdits {
  u32 allowed, banned, bias, seen, end;
  u32 restricts;
  float repetition, frequency, presence;
};

// Kept finite; a masked token stays masked, and what is no logit is not made one.
DEVICE float saturate(float original, float changed) {
  const float most = __uint_as_float(0x7f7fffffu);
  if (!(fabsf(original) < infinity())) return original;
  return changed > most ? most : changed < -most ? -most : changed;
}

// A token without a logit, NaN or +inf, is masked by nothing: whoever draws from the row is to find it.
DEVICE float masked(float logit) { return logit < infinity() ? -infinity() : logit; }

// grid (rows, ceil(columns / 1024)).
KERNEL(256) copy_logits(Matrix to, Matrix from, const RowEdits* rows) {
  const bool restricts = rows[blockIdx.x].restricts;
  const int end = min(to.cols, (int)(blockIdx.y + 1) * 1024);
  for (int col = blockIdx.y * 1024 + threadIdx.x; col < end; col += 256) {
    const float logit = from.row(blockIdx.x)[col];
    to.row(blockIdx.x)[col] = restricts ? masked(logit) : logit;
  }
}
EXPORT(copy_logits)

// Gives `body` the edits first .. end of tokens that the row has. All threads come, and are done together.
template <class F>
DEVICE void for_edits(const Edit* edits, u32 first, u32 end, int vocabulary, F body) {
  for (u32 i = first + threadIdx.x; i < end; i += 256)
    if (edits[i].token_id < (u32)vocabulary) body(edits[i].token_id, edits[i].value);
  __syncthreads();
}

// grid (rows). Of bias and counts a token has one; ids past the row are passed over.
KERNEL(256) edit_logits(Matrix to, Matrix from, const RowEdits* rows, const Edit* edits) {
  const RowEdits row = rows[blockIdx.x];
  const float* original = from.row(blockIdx.x);
  float* logits = to.row(blockIdx.x);
  for_edits(edits, row.allowed, row.banned, to.cols, [&](u32 token, u32) { logits[token] = original[token]; });
  for_edits(edits, row.banned, row.bias, to.cols, [&](u32 token, u32) { logits[token] = masked(original[token]); });
  for_edits(edits, row.bias, row.seen, to.cols, [&](u32 token, u32 bias) {
    logits[token] = saturate(logits[token], logits[token] + __uint_as_float(bias));
  });
  for_edits(edits, row.seen, row.end, to.cols, [&](u32 token, u32 count) {
    const float logit = logits[token];
    float penalised = logit > 0.0f ? logit / row.repetition : product(logit, row.repetition);
    if (count > 0) {
      penalised -= product(row.frequency, (float)count);
      penalised -= row.presence;
    }
    logits[token] = saturate(logit, penalised);
  });
}
EXPORT(edit_logits)
