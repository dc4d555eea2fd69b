// Draws a token for every row of logits.
//
//   scan     the largest logit of every chunk of 128, +inf where one is NaN or +inf        grid (rows, spans)
//   weigh    e^((logit - max) / temperature) of whole rows, and what their blocks or       grid (rows, spans)
//            buckets weigh; rows with a top_k are left to `draw`, which lists few tokens
//   draw     a block a row: the argmax, or top_k, min_p, top_p and the draw itself         grid (rows)
//
// A row is read once by `scan` and once by `weigh`; `draw` looks into the chunks that matter only. Nothing is sorted. Sums that
// round have the order of rust/engine/src/sampler; the others are of integers, which atomics may add in any order.
//
// What a row is drawn with is read from the device's memory, and decides nothing about what is launched.
#include "sampling.cuh"

// Where the steps leave what the next ones read, row by row. rust/cuda/src/sampling.rs has the same.
struct SamplingScratch {
  float* chunks;         // [rows][chunks]: the largest logit
  float* weights;        // [rows][vocabulary]
  float* weight_chunks;  // [rows][chunks]: the largest weight
  double* masses;        // [rows][blocks]: what blocks of 1024 weigh
  u64* buckets;          // [rows][1024]: mantissas of the weights of a digit
  u32* token_ids;        // [rows][vocabulary]: of rows with a top_k, the token of each weight
  u32* chunk_list;       // [rows][chunks]
};

DEVICE int blocks_of(int n) { return (n + kDrawBlock - 1) / kDrawBlock; }
DEVICE bool is_weighed_whole(const SamplingRow& row, int vocabulary) {
  return row.inverse_temperature > 0.0f && !(row.top_k > 0 && row.top_k < (u32)vocabulary);
}

// `buckets` are emptied; null where nothing is drawn.
KERNEL(256) sampling_scan(Matrix logits, float* chunks, u64* buckets) {
  const float* row = logits.row(blockIdx.x);
  const int num_chunks = chunks_of(logits.cols), lane = threadIdx.x % 32;
  chunks += (i64)blockIdx.x * num_chunks;
  const int end = min(num_chunks, (int)(blockIdx.y + 1) * (kSpan / kChunk));
  for (int chunk = blockIdx.y * (kSpan / kChunk) + threadIdx.x / 32; chunk < end; chunk += 8) {
    float largest = -infinity();
    bool has_nan = false;
#pragma unroll
    for (int i = 0; i < kChunk; i += 32) {
      const int col = chunk * kChunk + i + lane;
      const float value = col < logits.cols ? row[col] : -infinity();
      largest = fmaxf(largest, value);
      has_nan |= value != value;
    }
    largest = warp_max(largest);
    has_nan = __any_sync(~0u, has_nan);
    if (lane == 0) chunks[chunk] = has_nan ? infinity() : largest;
  }
  if (blockIdx.y == 0 && buckets)
    for (int bucket = threadIdx.x; bucket < kBuckets; bucket += 256) buckets[(i64)blockIdx.x * kBuckets + bucket] = 0;
}
EXPORT(sampling_scan)

// The weight of a logit, 0 below min_p of the likeliest's.
DEVICE float weight_of(float logit, float largest, const SamplingRow& row) {
  const float weight = exponential(product(logit - largest, row.inverse_temperature));
  return weight < row.min_p ? 0.0f : weight;
}

KERNEL(256) sampling_weigh(Matrix logits, const SamplingRow* rows, SamplingScratch scratch) {
  __shared__ float reduced[8];
  __shared__ u64 buckets[kBuckets];
  const SamplingRow row = rows[blockIdx.x];
  if (!is_weighed_whole(row, logits.cols)) return;
  const int n = logits.cols, num_chunks = chunks_of(n), lane = threadIdx.x % 32;
  const float largest = largest_of_chunks(scratch.chunks + (i64)blockIdx.x * num_chunks, num_chunks, reduced);
  // `draw` says what is wrong with such a row.
  if (!(fabsf(largest) < infinity())) return;
  for (int bucket = threadIdx.x; bucket < kBuckets; bucket += 256) buckets[bucket] = 0;
  __syncthreads();
  const float* from = logits.row(blockIdx.x);
  float* weights = scratch.weights + (i64)blockIdx.x * n;
  const int first = blockIdx.y * kSpan, end = min(num_chunks, (first + kSpan) / kChunk);
  for (int chunk = first / kChunk + threadIdx.x / 32; chunk < end; chunk += 8) {
    // All before the first store: no compiler reads past one that might be to the same place.
    float logits_of_lane[kChunk / 32], heaviest = 0.0f;
#pragma unroll
    for (int i = 0; i < kChunk; i += 32) {
      const int col = chunk * kChunk + i + lane;
      logits_of_lane[i / 32] = col < n ? from[col] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kChunk; i += 32) {
      const int col = chunk * kChunk + i + lane;
      const float weight = col < n ? weight_of(logits_of_lane[i / 32], largest, row) : 0.0f;
      if (col < n) weights[col] = weight;
      heaviest = fmaxf(heaviest, weight);
      if (row.top_p < 1.0f && weight > 0.0f) atomicAdd(buckets + digit_of(weight, 2 * kDigitBits), mantissa_of(weight));
    }
    heaviest = warp_max(heaviest);
    if (lane == 0) scratch.weight_chunks[(i64)blockIdx.x * num_chunks + chunk] = heaviest;
  }
  __syncthreads();
  if (row.top_p < 1.0f) {
    for (int bucket = threadIdx.x; bucket < kBuckets; bucket += 256)
      if (buckets[bucket]) atomicAdd(scratch.buckets + (i64)blockIdx.x * kBuckets + bucket, buckets[bucket]);
  } else if (threadIdx.x < kSpan / kDrawBlock * kSumLanes) {
    const int block = first / kDrawBlock + threadIdx.x / kSumLanes, start = block * kDrawBlock;
    const double mass = sum_of_lanes(min(kDrawBlock, n - start), [&](int i) { return weights[start + i]; });
    if (threadIdx.x % kSumLanes == 0 && start < n) scratch.masses[(i64)blockIdx.x * blocks_of(n) + block] = mass;
  }
}
EXPORT(sampling_weigh)

// What a block of `draw` has in shared memory.
struct DrawShared {
  union {
    u64 buckets[kBuckets];
    u32 bins[kSelectBins];
    float weights[kDrawBlock];
  };
  double masses[kBuckets];
  float reduced[32];
  int scratch[32];
  double target;
  int found;
};

// The candidates of a row, in ascending order of token: weights, the heaviest of each chunk of them, and their tokens, null
// where every token is one.
struct Candidates {
  int n;
  float* weights;
  float* chunks;
  const u32* token_ids;

  // Calls body(i, weight) for every candidate of at least `floor`, and for some others, warp by warp.
  template <class B>
  DEVICE void for_each(float floor, B body) const {
    const int lane = threadIdx.x % 32, num_chunks = chunks_of(n);
    for (int first = threadIdx.x / 32 * 32; first < num_chunks; first += 1024) {
      const bool matters = first + lane < num_chunks && chunks[first + lane] >= floor;
      for (u32 left = __ballot_sync(~0u, matters); left; left &= left - 1) {
        const int start = (first + __ffs(left) - 1) * kChunk;
#pragma unroll
        for (int i = 0; i < kChunk; i += 32)
          if (start + i + lane < n) body(start + i + lane, weights[start + i + lane]);
      }
    }
  }
};

// The lowest token of the largest logit.
DEVICE int argmax_of(const float* row, int n, const float* chunks, float largest, int* found) {
  if (threadIdx.x == 0) *found = n;
  __syncthreads();
  const int num_chunks = chunks_of(n);
  int first = num_chunks;
  for (int chunk = threadIdx.x; chunk < num_chunks; chunk += 1024)
    if (chunks[chunk] == largest) first = min(first, chunk);
  if (first < num_chunks) atomicMin(found, first);
  __syncthreads();
  const int start = *found * kChunk, within = start + (int)threadIdx.x;
  __syncthreads();
  if (threadIdx.x == 0) *found = n;
  __syncthreads();
  // A chunk with a NaN is as large as +inf.
  const bool is_it = threadIdx.x < kChunk && within < n && (row[within] == largest || row[within] != row[within]);
  if (is_it) atomicMin(found, within);
  __syncthreads();
  return *found;
}

// Lists the top_k largest logits, and all that equal the last of them, as candidates.
DEVICE Candidates list_top_k(const float* row, int vocabulary, float largest, const SamplingRow& params,
                             const SamplingScratch& scratch, DrawShared& shared) {
  const int num_chunks = chunks_of(vocabulary), k = params.top_k;
  const i64 at = blockIdx.x;
  const float* chunks = scratch.chunks + at * num_chunks;
  u32* list = scratch.chunk_list + at * num_chunks;
  u32* token_ids = scratch.token_ids + at * vocabulary;
  Candidates candidates{0, scratch.weights + at * vocabulary, scratch.weight_chunks + at * num_chunks, token_ids};
  const ListedTokens tokens{list, list_chunks(list, chunks, num_chunks, k, shared.bins, shared.scratch), row, vocabulary};
  const float lowest = tokens.kth(k, shared.bins, shared.scratch);
  candidates.n = compact(
      tokens.count(), [&](int i) { return tokens.exists(i) && tokens.logit(i) >= lowest; },
      [&](int i, int to) {
        token_ids[to] = tokens.token(i);
        candidates.weights[to] = weight_of(tokens.logit(i), largest, params);
      },
      shared.scratch);
  __syncthreads();
  for (int chunk = threadIdx.x / 32; chunk < chunks_of(candidates.n); chunk += 32) {
    float heaviest = 0.0f;
    for (int i = chunk * kChunk + threadIdx.x % 32; i < min(candidates.n, (chunk + 1) * kChunk); i += 32)
      heaviest = fmaxf(heaviest, candidates.weights[i]);
    heaviest = warp_max(heaviest);
    if (threadIdx.x % 32 == 0) candidates.chunks[chunk] = heaviest;
  }
  __syncthreads();
  return candidates;
}

// The bucket in which the running mass, from the last bucket down, reaches `target`, which becomes what is to be reached
// inside it; the lowest bucket, and a target above everything, if rounding leaves it above the sum. For a whole warp.
DEVICE int crossing_bucket(const double* masses, double& target) {
  int lowest = 0;
  for (int first = kBuckets - 32; first >= 0; first -= 32) {
    const double own = masses[first + threadIdx.x % 32];
    u32 left = __ballot_sync(~0u, own > 0.0);
    while (left) {
      const int lane = 31 - __clz(left);
      left &= ~(1u << lane);
      const double mass = __shfl_sync(~0u, own, lane);
      lowest = first + lane;
      if (mass >= target) return lowest;
      target -= mass;
    }
  }
  target = (double)infinity();
  return lowest;
}

// Where top_p ends: candidates above `weight` are kept, and those that equal it below index `end`.
struct Cut {
  float weight;
  int end;

  DEVICE bool keeps(int i, float value) const { return value > weight || (value == weight && value > 0.0f && i < end); }
};

// The tokens of weight `last` that are kept are the first num_kept: the index after them.
DEVICE int end_of_ties(const Candidates& candidates, float last, int num_kept, DrawShared& shared) {
  if (threadIdx.x < 32) {
    int end = candidates.n, seen = 0;
    for (int chunk = 0; chunk < chunks_of(candidates.n) && seen < num_kept; ++chunk) {
      if (candidates.chunks[chunk] < last) continue;
      for (int i = 0; i < kChunk && seen < num_kept; i += 32) {
        const int index = chunk * kChunk + i + threadIdx.x;
        const bool ties = index < candidates.n && candidates.weights[index] == last;
        for (u32 left = __ballot_sync(~0u, ties); left && seen < num_kept; left &= left - 1)
          if (++seen == num_kept) end = chunk * kChunk + i + __ffs(left);
      }
    }
    if (threadIdx.x == 0) shared.found = end;
  }
  __syncthreads();
  const int end = shared.found;
  __syncthreads();
  return end;
}

// The smallest set of likeliest tokens whose share of the weight reaches top_p; whole rows have their first buckets filled.
DEVICE Cut cut_top_p(const Candidates& candidates, float top_p, const u64* filled, DrawShared& shared) {
  u32 prefix = 0;
  u64 ties = 0;
  for (int level = 0; level < 3; ++level) {
    const int shift = (2 - level) * kDigitBits;
    for (int bucket = threadIdx.x; bucket < kBuckets; bucket += 1024)
      shared.buckets[bucket] = level == 0 && filled ? filled[bucket] : 0;
    __syncthreads();
    if (level > 0 || !filled)
      candidates.for_each(__uint_as_float(prefix), [&](int, float weight) {
        const bool inside = level == 0 || __float_as_uint(weight) >> (shift + kDigitBits) == prefix >> (shift + kDigitBits);
        if (inside && weight > 0.0f) atomicAdd(shared.buckets + digit_of(weight, shift), mantissa_of(weight));
      });
    __syncthreads();
    for (int bucket = threadIdx.x; bucket < kBuckets; bucket += 1024) {
      const u32 bits = prefix | (u32)bucket << shift;
      shared.masses[bucket] = ldexp((double)shared.buckets[bucket], (int)(bits >> 23) - 150);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      double target = level == 0 ? product((double)top_p, sum_in_order(shared.masses, kBuckets)) : shared.target;
      const int bucket = crossing_bucket(shared.masses, target);
      __syncwarp();
      if (threadIdx.x == 0) {
        shared.target = target;
        shared.found = bucket;
      }
    }
    __syncthreads();
    prefix |= (u32)shared.found << shift;
    const float weight = __uint_as_float(prefix);
    if (level == 2) ties = shared.buckets[shared.found] / max(mantissa_of(weight), (u64)1);
    __syncthreads();
  }
  const float last = __uint_as_float(prefix);
  const double num_kept = fmax(ceil(shared.target / (double)last), 1.0);
  const int end = num_kept < (double)ties ? end_of_ties(candidates, last, (int)num_kept, shared) : candidates.n;
  return Cut{last, end};
}

// The index of the last candidate that is kept.
DEVICE int last_kept(const Candidates& candidates, const Cut& cut, DrawShared& shared) {
  if (threadIdx.x == 0) shared.found = 0;
  __syncthreads();
  candidates.for_each(cut.weight, [&](int i, float weight) {
    if (cut.keeps(i, weight)) atomicMax(&shared.found, i);
  });
  __syncthreads();
  return shared.found;
}

// What each block of 1024 candidates weighs.
DEVICE void sum_blocks(const Candidates& candidates, const Cut& cut, double* masses) {
  const int blocks = blocks_of(candidates.n);
  for (int first = 0; first < blocks; first += 1024 / kSumLanes) {
    const int block = first + threadIdx.x / kSumLanes, start = min(block * kDrawBlock, candidates.n);
    // Where no weight of a chunk is kept, zeros are added, which changes no sum.
    const int length = min(kDrawBlock, candidates.n - start);
    float heaviest = 0.0f;
    const double mass = sum_of_lanes(length, [&](int i) {
      if (i % kChunk < kSumLanes) heaviest = candidates.chunks[(start + i) / kChunk];
      if (heaviest < cut.weight) return 0.0f;
      const float weight = candidates.weights[start + i];
      return cut.keeps(start + i, weight) ? weight : 0.0f;
    });
    if (block < blocks && threadIdx.x % kSumLanes == 0) masses[block] = mass;
  }
  __syncthreads();
}

// The first candidate at which the running mass exceeds `target`, within the block of 1024 that shared.weights holds, or else
// the last one that is kept. One thread.
DEVICE int draw_within(const float* weights, int n, double target) {
  double running = 0.0;
  int last = 0;
  for (int i = 0; i < n; ++i) {
    if (weights[i] == 0.0f) continue;
    running += (double)weights[i];
    last = i;
    if (running > target) break;
  }
  return last;
}

// The candidate that a uniform number points at, in ascending order of token.
DEVICE int draw_candidate(const Candidates& candidates, const Cut& cut, const double* masses, double uniform,
                          DrawShared& shared) {
  if (threadIdx.x < 32) {
    const int blocks = blocks_of(candidates.n);
    const double target = product(uniform, sum_in_order(masses, blocks));
    double running = 0.0;
    int block = 0;
    for (; block < blocks && !(running + masses[block] > target); ++block) running += masses[block];
    __syncwarp();
    if (threadIdx.x == 0) {
      shared.found = block < blocks ? block : -1;
      shared.target = target - running;
    }
  }
  __syncthreads();
  const int block = shared.found, start = block * kDrawBlock;
  __syncthreads();
  if (block < 0) return last_kept(candidates, cut, shared);
  const int length = min(kDrawBlock, candidates.n - start), i = threadIdx.x;
  if (i < length) {
    const float weight = candidates.weights[start + i];
    shared.weights[i] = cut.keeps(start + i, weight) ? weight : 0.0f;
  }
  __syncthreads();
  if (threadIdx.x == 0) shared.found = start + draw_within(shared.weights, length, shared.target);
  __syncthreads();
  return shared.found;
}

// A row that is not greedy.
DEVICE int draw_row(const float* row, int n, float largest, const SamplingRow& params, const SamplingScratch& scratch,
                    DrawShared& shared) {
  const i64 at = blockIdx.x;
  const bool whole = is_weighed_whole(params, n);
  double* masses = scratch.masses + at * blocks_of(n);
  Candidates candidates{n, scratch.weights + at * n, scratch.weight_chunks + at * chunks_of(n), nullptr};
  if (!whole) candidates = list_top_k(row, n, largest, params, scratch, shared);
  Cut cut{0.0f, candidates.n};
  if (params.top_p < 1.0f) cut = cut_top_p(candidates, params.top_p, whole ? scratch.buckets + at * kBuckets : nullptr, shared);
  if (!whole || params.top_p < 1.0f) sum_blocks(candidates, cut, masses);
  const int drawn = draw_candidate(candidates, cut, masses, uniform(params.seed, params.position), shared);
  return candidates.token_ids ? (int)candidates.token_ids[drawn] : drawn;
}

// `to`, [rows, 2]: the token and its logit, which is finite but where the row is no distribution: then the first NaN or +inf,
// or -inf if there is nothing else.
KERNEL(1024) sampling_draw(Matrix to, Matrix logits, const SamplingRow* rows, SamplingScratch scratch) {
  __shared__ DrawShared shared;
  const SamplingRow params = rows[blockIdx.x];
  const float* row = logits.row(blockIdx.x);
  const int n = logits.cols, num_chunks = chunks_of(n);
  const float* chunks = scratch.chunks + (i64)blockIdx.x * num_chunks;
  const float largest = largest_of_chunks(chunks, num_chunks, shared.reduced);
  const bool draws = fabsf(largest) < infinity() && params.inverse_temperature > 0.0f;
  const int token_id = draws ? draw_row(row, n, largest, params, scratch, shared) : argmax_of(row, n, chunks, largest, &shared.found);
  if (threadIdx.x == 0) {
    to.row(blockIdx.x)[0] = (float)token_id;
    to.row(blockIdx.x)[1] = row[token_id];
  }
}
EXPORT(sampling_draw)
