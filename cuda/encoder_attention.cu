// Attention among the rows of each sequence, to both sides, a row at a time: attention_scalar.cuh has how.
#include "attention_scalar.cuh"

// grid (rows, KV heads x ceil(group / 4)).
KERNEL(128) encoder_attention(Matrix to, Matrix q, Matrix k, Matrix v, const u32* starts, int num_seqs, int head_dim,
                              ScoreRules rules) {
  attend(to, q, OwnRows{k, v, starts, num_seqs, head_dim}, rules, Partials{});
}
EXPORT(encoder_attention)
