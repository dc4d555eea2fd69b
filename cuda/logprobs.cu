// Log-probabilities of the chosen and of the likeliest tokens. The host takes the logarithm: what is left here are sums in the
// order of rust/engine/src/sampler, and a selection.
//
//   sampling_scan     chunks, of every row of the logits        sampling.cu
//   logprobs_sum      what runs of 512 tokens weigh              grid (requests, spans)
//   logprobs_gather   their sum, and the likeliest tokens        grid (requests)
#include "sampling.cuh"

constexpr int kSumBlock = 512;  // rust/engine/src/sampler/softmax.rs
constexpr int kMostLogprobs = 1024;

// rust/cuda/src/logprobs.rs has the structs here as well.
struct LogprobsRequest {
  u32 row, token_id;
};

struct LogprobsRow {
  double total;  // the sum of e^(logit - largest)
  float largest, logit;
  u32 num_greater;  // logits greater than the token's
  u32 reserved;
};

struct TokenLogit {
  u32 token_id;
  float logit;
};

DEVICE int sum_blocks_of(int n) { return (n + kSumBlock - 1) / kSumBlock; }

KERNEL(256) logprobs_sum(Matrix logits, const LogprobsRequest* requests, const float* chunks, double* masses) {
  __shared__ float reduced[8];
  const i64 at = requests[blockIdx.x].row;
  const float* row = logits.row(at);
  const int n = logits.cols, num_chunks = chunks_of(n);
  const float largest = largest_of_chunks(chunks + at * num_chunks, num_chunks, reduced);
  if (!(fabsf(largest) < infinity())) return;
  const int block = blockIdx.y * (kSpan / kSumBlock) + threadIdx.x / kSumLanes, start = block * kSumBlock;
  if (threadIdx.x >= kSpan / kSumBlock * kSumLanes) return;
  const double mass = sum_of_lanes(min(kSumBlock, n - start), [&](int i) { return exponential(row[start + i] - largest); });
  if (threadIdx.x % kSumLanes == 0 && start < n) masses[(i64)blockIdx.x * sum_blocks_of(n) + block] = mass;
}
EXPORT(logprobs_sum)

struct GatherShared {
  union {
    u32 bins[kSelectBins];
    TokenLogit tokens[kMostLogprobs];
  };
  float reduced[32];
  int scratch[32];
  int num_greater;
};

// The k likeliest tokens, k of 1 .. min(vocabulary, kMostLogprobs): by descending logit, equal ones by ascending id.
DEVICE void gather_largest(TokenLogit* to, const ListedTokens& tokens, int k, GatherShared& shared) {
  const float lowest = tokens.kth(k, shared.bins, shared.scratch);
  auto token = [&](int i) { return TokenLogit{(u32)tokens.token(i), tokens.logit(i)}; };
  const int above = compact(
      tokens.count(), [&](int i) { return tokens.exists(i) && tokens.logit(i) > lowest; },
      [&](int i, int at) { shared.tokens[at] = token(i); }, shared.scratch);
  compact(
      tokens.count(), [&](int i) { return tokens.exists(i) && tokens.logit(i) == lowest; },
      [&](int i, int at) {
        if (above + at < k) shared.tokens[above + at] = token(i);
      },
      shared.scratch);
  __syncthreads();
  if ((int)threadIdx.x >= k) return;
  const TokenLogit own = shared.tokens[threadIdx.x];
  int before = 0;
  for (int i = 0; i < k; ++i) {
    const TokenLogit other = shared.tokens[i];
    before += other.logit > own.logit || (other.logit == own.logit && other.token_id < own.token_id);
  }
  to[before] = own;
}

KERNEL(1024, 1)
logprobs_gather(Matrix logits, const LogprobsRequest* requests, const float* chunks, const double* masses, u32* chunk_lists,
                int top, LogprobsRow* rows, TokenLogit* likeliest) {
  __shared__ GatherShared shared;
  const LogprobsRequest request = requests[blockIdx.x];
  const float* row = logits.row(request.row);
  const int n = logits.cols, num_chunks = chunks_of(n);
  chunks += (i64)request.row * num_chunks;
  const float largest = largest_of_chunks(chunks, num_chunks, shared.reduced), logit = row[request.token_id];
  const bool is_valid = fabsf(largest) < infinity();
  if (threadIdx.x == 0) shared.num_greater = 0;
  __syncthreads();
  if (is_valid) {
    int greater = 0;
    for (int chunk = threadIdx.x / 32; chunk < num_chunks; chunk += 32) {
      if (!(chunks[chunk] > logit)) continue;
      for (int i = chunk * kChunk + threadIdx.x % 32; i < min(n, (chunk + 1) * kChunk); i += 32) greater += row[i] > logit;
    }
    if (greater) atomicAdd(&shared.num_greater, greater);
    if (top > 0) {
      u32* list = chunk_lists + (i64)blockIdx.x * num_chunks;
      const int listed = list_chunks(list, chunks, num_chunks, top, shared.bins, shared.scratch);
      gather_largest(likeliest + (i64)blockIdx.x * top, ListedTokens{list, listed, row, n}, top, shared);
    }
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const double total = is_valid ? sum_in_order(masses + (i64)blockIdx.x * sum_blocks_of(n), sum_blocks_of(n)) : 0.0;
  if (threadIdx.x == 0) rows[blockIdx.x] = LogprobsRow{total, largest, logit, (u32)shared.num_greater, 0};
}
EXPORT(logprobs_gather)
