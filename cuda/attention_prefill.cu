// Causal attention of many queries over keys and values of 16 bits: attention_prefill.cuh has how.
#include "attention_prefill.cuh"

// Two blocks a multiprocessor: for a third the compiler would leave numbers in memory.
#define PREFILL(name, T, WIDTH)                                                                                         \
  KERNEL(128, 2) name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, int most_rows) {           \
    prefill(to, q, PagedTiles<T, WIDTH, PREFILL_WARPS>{cache, seqs}, seqs, rules, most_rows);                           \
  }                                                                                                                     \
  EXPORT(name)

PREFILL(attention_prefill_f16_64, f16, 64)
PREFILL(attention_prefill_f16_128, f16, 128)
PREFILL(attention_prefill_bf16_64, bf16, 64)
PREFILL(attention_prefill_bf16_128, bf16, 128)
