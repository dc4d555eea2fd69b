// From one decode step to the next without the host: the tokens of a step are the ids of the one after.
#include "device.cuh"

constexpr u32 kNoRow = ~0u;

// grid (ceil(n / 256)): the id itself, or the token in the row named. Tokens are numbers in the first of two columns.
KERNEL(256) chain_ids(u32* to, const u32* ids, const u32* rows, Matrix tokens, int n) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  to[i] = rows[i] == kNoRow ? ids[i] : (u32)tokens.row(rows[i])[0];
}
EXPORT(chain_ids)

// grid (ceil(rows / 256)), both columns.
KERNEL(256) keep_tokens(Matrix to, Matrix tokens) {
  const int row = blockIdx.x * 256 + threadIdx.x;
  if (row >= tokens.rows) return;
  to.row(row)[0] = tokens.row(row)[0];
  to.row(row)[1] = tokens.row(row)[1];
}
EXPORT(keep_tokens)
