// Where tiles of keys and values come from: the paged cache.
//
//   16 bits   cache ──behind the products' back──► tile [64][WIDTH + 8]
//
// A warp brings 64 / WARPS keys, which lie in one block: blocks hold a multiple of 16. A kind of tiles has
//
//   Memory      what a tile takes of shared memory
//   copy_*      begins to copy a tile's keys, or values
//   land_*      what this warp has copied is there: the last thing to do before the barrier that shows it to all warps
//   keys, values [PARTS][64][WIDTH + 8], of type T, zeros where no query sees the position and past the head's columns
//   *_scale     of a key of the tile, or of its values; what all of a tile's keys, or values, are multiples of: *_unit
#pragma once
#include "attention_mma.cuh"

// Where a sequence keeps a position.
DEVICE CachePlace place_of(const KvBlocks& cache, const Sequences& seqs, const Queries& queries, int position) {
  const u32 block = position / cache.block_size, within = position - block * cache.block_size;
  const u32 found = seqs.block_table[(i64)queries.seq * seqs.max_blocks + block];
  return cache.place(found, queries.kv_head, within);
}

template <class Number, int WIDTH_, int WARPS>
struct PagedTiles {
  using T = Number;
  static constexpr int WIDTH = WIDTH_, PARTS = 1, KEYS = TILE / WARPS;
  struct Memory {
    T keys[PARTS][TILE][WIDTH + 8];
    T values[PARTS][TILE][WIDTH + 8];
  };
  KvBlocks cache;
  Sequences seqs;

  DEVICE int head_dim() const { return cache.head_dim; }
  DEVICE void copy_keys(Memory& to, const Queries& queries, const Range& range, int tile) const {
    copy(to.keys[0], cache.keys, queries, range, tile);
  }
  DEVICE void copy_values(Memory& to, const Queries& queries, const Range& range, int tile) const {
    copy(to.values[0], cache.values, queries, range, tile);
  }
  DEVICE void land_keys(Memory&, const Range&, int) const {}
  DEVICE void land_values(Memory&, const Range&, int) const {}
  DEVICE static const T* keys(const Memory& memory) { return memory.keys[0][0]; }
  DEVICE static const T* values(const Memory& memory) { return memory.values[0][0]; }
  DEVICE static float key_scale(const Memory&, int) { return 1.0f; }
  DEVICE static float value_scale(const Memory&, int) { return 1.0f; }
  DEVICE float key_unit(const Queries&, int) const { return 1.0f; }
  DEVICE float value_unit(const Queries&, int) const { return 1.0f; }

  DEVICE void copy(T (*to)[WIDTH + 8], u8* from, const Queries& queries, const Range& range, int tile) const {
    constexpr int VECTORS = WIDTH / 8;
    const int own = threadIdx.x / 32 * KEYS, first = tile * TILE + own;
    const T* rows = reinterpret_cast<const T*>(from);
    if (range.meets(first, KEYS)) rows = cache.row<T>(from, place_of(cache, seqs, queries, first), cache.head_dim);
#pragma unroll 2
    for (int i = threadIdx.x % 32; i < KEYS * VECTORS; i += 32) {
      const int key = i / VECTORS, at = i % VECTORS * 8;
      const bool present = range.has(first + key) && at < cache.head_dim;
      copy_async_16(&to[own + key][at], present ? rows + key * cache.head_dim + at : rows, present);
    }
  }
};
