// Causal attention of many queries over keys and values of 16 or eight bits: attention_prefill.cuh has how.
#include "attention_prefill.cuh"

// BLOCKS a multiprocessor must have room for: two, for a third the compiler would leave numbers in memory. Of heads of 256
// elements one, since its queries take half of the shared memory.
#define PREFILL(name, WIDTH, BLOCKS, ...)                                                                             \
  KERNEL(32 * PREFILL_WARPS<WIDTH>, BLOCKS)                                                                           \
  name(Matrix to, Matrix q, KvBlocks cache, Sequences seqs, ScoreRules rules, int most_rows) {                        \
    prefill(to, q, __VA_ARGS__{cache, seqs}, seqs, rules, most_rows);                                                 \
  }                                                                                                                   \
  EXPORT(name)
#define PREFILL_16(name, T, WIDTH, BLOCKS) PREFILL(name, WIDTH, BLOCKS, PagedTiles<T, WIDTH, PREFILL_WARPS<WIDTH>>)
#define PREFILL_8(name, WIDTH, BLOCKS) PREFILL(name, WIDTH, BLOCKS, Int8Tiles<WIDTH, PREFILL_WARPS<WIDTH>>)

PREFILL_16(attention_prefill_f16_64, f16, 64, 2)
PREFILL_16(attention_prefill_f16_128, f16, 128, 2)
PREFILL_16(attention_prefill_f16_256, f16, 256, 1)
PREFILL_16(attention_prefill_bf16_64, bf16, 64, 2)
PREFILL_16(attention_prefill_bf16_128, bf16, 128, 2)
PREFILL_16(attention_prefill_bf16_256, bf16, 256, 1)
PREFILL_8(attention_prefill_int8_64, 64, 2)
PREFILL_8(attention_prefill_int8_128, 128, 2)
PREFILL_8(attention_prefill_int8_256, 256, 1)
