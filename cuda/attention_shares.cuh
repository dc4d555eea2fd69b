// Which block takes which splits, so that one long sequence among short ones is the work of many blocks.
//
//   grid.x    | a block for each tile of queries: its first splits | spare blocks: the others, sequence after sequence |
//   a block   up to c splits of a tile, c = ceil(splits of all tiles but the first of each / spare blocks)
//
//   lengths in splits 1 9 2, 4 spare blocks: c = 3      | 1 | 9: 0-2 | 2 | 9: 3-5 | 9: 6-8 | - | - |
//
// So the grid depends on no length, and a recorded step may be run again with others. A sequence of more than c splits leaves
// a softmax for each, which merge_splits folds; the others are done by their block. Which it is decides no bit: the softmaxes are
// of single splits and are folded in ascending order, whoever does it. Slots for them are handed out in the order of the
// sequences; one that finds none left is done by its block, too.
#pragma once
#include "attention.cuh"

// rust/cuda/src/attention.rs has the same.
struct Partials {
  float* data;       // [slots][heads][values, maximum, sum]; null where all blocks go through all splits
  int* first_slots;  // of each sequence, or negative where it leaves no softmaxes
  int slots, spare;
  int head_dim, most_rows;  // rows of a sequence that merge_splits has blocks for; 0: rows are numbered through the batch

  // Of a row of a sequence whose first slot is `slot`, and which has `splits` in all.
  DEVICE float* at(int slot, int splits, int row, int heads, int head, int split) const {
    return data + ((i64)(slot + row * splits) * heads + (i64)head * splits + split) * (head_dim + 2);
  }
};

// How the rows of a sequence become tiles. Sequences of more than `most_rows` are another kernel's.
struct Tiling {
  int queries_of_row, queries_of_tile, most_rows;
};

// The splits that any row of a sequence sees, counted.
struct Extent {
  int first_split = 0, splits = 0, rows = 0, tiles = 0;

  DEVICE Extent() {}
  DEVICE Extent(const Sequences& seqs, const ScoreRules& rules, const Tiling& tiling, int seq) {
    if (seq >= seqs.num_seqs) return;
    const int first_row = seqs.starts[seq], count = (int)seqs.starts[seq + 1] - first_row;
    if (count == 0 || count > tiling.most_rows) return;
    rows = count;
    tiles = (rows * tiling.queries_of_row + tiling.queries_of_tile - 1) / tiling.queries_of_tile;
    first_split = seqs.seen(first_row, seq, rules).first_split();
    splits = seqs.seen(first_row + rows - 1, seq, rules).last / SPLIT - first_split + 1;
  }
};

// What a block does: splits begin .. end of a tile, or all of it.
struct Share {
  int seq = -1, tile = 0, begin = 0, end = 0x7fffffff;
  int slot = -1, splits = 0;  // of the sequence, where its softmaxes are left

  DEVICE bool is_whole() const { return slot < 0; }
};

DEVICE int up_to_lane(int value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance <<= 1) {
    const int before = __shfl_up_sync(~0u, value, distance);
    if ((int)(threadIdx.x % 32) >= distance) value += before;
  }
  return value;
}

// The most splits of a block.
DEVICE int splits_of_block(const Sequences& seqs, const ScoreRules& rules, const Tiling& tiling, int spare) {
  int beyond = 0;
  for (int seq = threadIdx.x % 32; seq < seqs.num_seqs; seq += 32) {
    const Extent extent(seqs, rules, tiling, seq);
    beyond += extent.tiles * max(extent.splits - 1, 0);
  }
  beyond = __shfl_sync(~0u, up_to_lane(beyond), 31);
  return max(1, (beyond + spare - 1) / spare);
}

// The share of the block of tile `tile` of sequence `seq`, or if that is negative of spare block `tile`. For whole warps.
DEVICE Share find_share(const Sequences& seqs, const ScoreRules& rules, const Partials& partials, const Tiling& tiling, int seq,
                        int tile) {
  Share share;
  const int most = splits_of_block(seqs, rules, tiling, partials.spare);
  int slots = 0;
  for (int first = 0; first < seqs.num_seqs; first += 32) {
    const Extent extent(seqs, rules, tiling, first + threadIdx.x % 32);
    const int wanted = extent.splits > most ? extent.rows * extent.splits : 0, slots_after = slots + up_to_lane(wanted);
    const int slot = wanted && slots_after <= partials.slots ? slots_after - wanted : -1;
    const int shares = slot < 0 ? 1 : (extent.splits + most - 1) / most;
    const int spare_shares = extent.tiles * (shares - 1), after = up_to_lane(spare_shares);
    const u32 found = seq < 0 ? __ballot_sync(~0u, after > tile) : seq - first < 32 ? 1u << (seq - first) : 0u;
    if (found) {
      const int lane = __ffs(found) - 1, others = __shfl_sync(~0u, shares, lane) - 1;
      const int within = tile - __shfl_sync(~0u, after - spare_shares, lane), nth = seq < 0 ? 1 + within % others : 0;
      share.seq = first + lane;
      share.tile = seq < 0 ? within / others : tile;
      share.slot = __shfl_sync(~0u, slot, lane);
      share.splits = __shfl_sync(~0u, extent.splits, lane);
      const int first_split = __shfl_sync(~0u, extent.first_split, lane);
      if (!share.is_whole()) share.begin = first_split + nth * most, share.end = share.begin + most;
      return share;
    }
    if (seq < 0) tile -= __shfl_sync(~0u, after, 31);
    slots = __shfl_sync(~0u, slots_after, 31);
  }
  return share;
}

// The share of the block of tile `tile` of a sequence. One block of a sequence, `tells`, says where its softmaxes are.
DEVICE Share own_share(const Sequences& seqs, const ScoreRules& rules, const Partials& partials, const Tiling& tiling, int seq,
                       int tile, bool tells) {
  Share share;
  share.seq = seq, share.tile = tile;
  if (!partials.data) return share;
  if (Extent(seqs, rules, tiling, seq).splits > 1) share = find_share(seqs, rules, partials, tiling, seq, tile);
  if (tells && threadIdx.x == 0) partials.first_slots[seq] = share.slot;
  return share;
}
DEVICE Share spare_share(const Sequences& seqs, const ScoreRules& rules, const Partials& partials, const Tiling& tiling,
                         int number) {
  return find_share(seqs, rules, partials, tiling, -1, number);
}
