// Where tiles of keys and values come from: the paged cache.
//
//   16 bits   cache ──behind the products' back──► tile [64][WIDTH + 8]
//   int8      cache ──the same──► codes [64][head_dim], scales [64] ──by who copied them──► tile of bf16
//
// Codes are bf16 without rounding. A key's score is multiplied by its scale, and the weight of a value by the value's, in
// float32 both: what the tensor cores multiply is as exact as with a cache of bf16.
//
// A warp brings 64 / WARPS keys, which lie in one block: blocks hold a multiple of 16. A kind of tiles has
//
//   Memory      what a tile takes of shared memory
//   copy_*      begins to copy a tile's keys, or values
//   land_*      what this warp has copied is there: the last thing to do before the barrier that shows it to all warps. The
//               warp itself sees the scales of its own keys
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

// Of 16 bits.
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

// Two of a word's codes as bf16, which has them all: `first` is 0 or 2. The last bits of a float between 2^23 and 2^24 are a whole
// number's.
DEVICE u32 bf16_of_codes(u32 word, int first) {
  const u32 codes = (word ^ 0x80808080u) >> 8 * first;
  const float low = __uint_as_float(0x4b000000u | (codes & 0xffu)) - 8388736.0f;
  const float high = __uint_as_float(0x4b000000u | (codes >> 8 & 0xffu)) - 8388736.0f;
  return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

// Of eight bits, with a scale for each key and for its values.
template <int WIDTH_, int WARPS>
struct Int8Tiles {
  using T = bf16;
  static constexpr int WIDTH = WIDTH_, PARTS = 1, KEYS = TILE / WARPS;
  // As they lie in the cache: a warp's keys one after another.
  struct Codes {
    i8 codes[WARPS][KEYS * WIDTH];
    float scales[TILE];
  };
  struct __align__(16) Memory {
    Codes key_codes, value_codes;
    T tile[TILE][WIDTH + 8];  // keys, and values once these were multiplied
    float key_scales[TILE], value_scales[TILE];
  };
  KvBlocks cache;
  Sequences seqs;

  DEVICE int head_dim() const { return cache.head_dim; }
  DEVICE void copy_keys(Memory& to, const Queries& queries, const Range& range, int tile) const {
    copy(to.key_codes, cache.keys, cache.key_scales, queries, range, tile);
  }
  DEVICE void copy_values(Memory& to, const Queries& queries, const Range& range, int tile) const {
    copy(to.value_codes, cache.values, cache.value_scales, queries, range, tile);
  }
  DEVICE void land_keys(Memory& memory, const Range& range, int tile) const {
    land(memory.tile, memory.key_scales, memory.key_codes, range, tile);
  }
  DEVICE void land_values(Memory& memory, const Range& range, int tile) const {
    land(memory.tile, memory.value_scales, memory.value_codes, range, tile);
  }
  DEVICE static const T* keys(const Memory& memory) { return memory.tile[0]; }
  DEVICE static const T* values(const Memory& memory) { return memory.tile[0]; }
  DEVICE static float key_scale(const Memory& memory, int key) { return memory.key_scales[key]; }
  DEVICE static float value_scale(const Memory& memory, int key) { return memory.value_scales[key]; }
  DEVICE float key_unit(const Queries&, int) const { return 1.0f; }
  DEVICE float value_unit(const Queries&, int) const { return 1.0f; }

  // What is there of keys that no query sees comes along, and is dropped as it lands.
  DEVICE void copy(Codes& to, u8* codes, u8* scales, const Queries& queries, const Range& range, int tile) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = tile * TILE + warp * KEYS;
    if (!range.meets(first, KEYS)) return;
    const CachePlace place = place_of(cache, seqs, queries, first);
    const i8* from = cache.row<i8>(codes, place, cache.head_dim);
    for (int i = lane; i < KEYS * cache.head_dim / 16; i += 32) copy_async_16(&to.codes[warp][i * 16], from + i * 16, true);
    if (lane < KEYS / 4)
      copy_async_16(&to.scales[warp * KEYS + lane * 4], cache.row<float>(scales, place, 1) + lane * 4, true);
  }

  DEVICE void land(T (*to)[WIDTH + 8], float* scales, const Codes& from, const Range& range, int tile) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, own = warp * KEYS, first = tile * TILE + own;
    __syncwarp();
    if (lane < KEYS) scales[own + lane] = range.has(first + lane) ? from.scales[own + lane] : 0.0f;
#pragma unroll 2
    for (int i = lane; i < KEYS * WIDTH / 8; i += 32) {
      const int key = i / (WIDTH / 8), at = i % (WIDTH / 8) * 8;
      uint2 codes{0, 0};
      if (range.has(first + key) && at < cache.head_dim)
        codes = *reinterpret_cast<const uint2*>(&from.codes[warp][key * cache.head_dim + at]);
      void* place = &to[own + key][at];
      *static_cast<uint4*>(place) = uint4{bf16_of_codes(codes.x, 0), bf16_of_codes(codes.x, 2), bf16_of_codes(codes.y, 0),
                                          bf16_of_codes(codes.y, 2)};
    }
    __syncwarp();
  }
};
