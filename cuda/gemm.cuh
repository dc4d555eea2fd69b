// Products of a weight's rows and rows of x, in an order of additions that only K decides.
//
//   K   |slab|slab|...|  part 0  |  part 1  |  ...  |  part 7  |      a part: part_slabs = ceil(slabs / 8) slabs
//
// A part's products are summed from zero in the order of its columns; the sum is that of the parts, in their order. So a row
// of x has the same bits from every kernel here, whatever stands beside it: a skinny block gives each part to a warp, a tile
// goes through all of them, or through one of them only and leaves the sums to another kernel.
#pragma once
#include "gemm_format.cuh"

constexpr int kParts = 8;
constexpr int kGemmThreads = 256;

// rust/cuda/src/linear.rs has the same. Strides are in bytes: of the weight a multiple of 16, of x one of kSlabBytes.
struct GemmOperands {
  const u8* weights;
  i64 weight_stride;
  const u8* x;
  i64 x_stride;
  WeightScales scales;
  int slabs, part_slabs;
};

// Copies slabs of some rows into shared memory, with `threads` threads: each takes one chunk's column of every few rows.
template <int rows, int bytes, int threads>
struct SlabCopier {
  static constexpr int kChunks = bytes / 16, kRowsAtOnce = threads / kChunks, kCopies = rows / kRowsAtOnce;
  static_assert(kCopies * kRowsAtOnce == rows, "whole copies");
  const u8* from[kCopies];
  i64 left;  // bytes of a row from this thread's chunk of the first slab on
  int row, chunk;

  template <class Row>
  DEVICE SlabCopier(const u8* matrix, i64 stride, int thread, Row row_of) : row(thread / kChunks), chunk(thread % kChunks) {
    left = stride - chunk * 16;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) from[i] = matrix + row_of(row + i * kRowsAtOnce) * stride + chunk * 16;
  }

  DEVICE void copy(u8* to, int slab) const {
    const i64 at = (i64)slab * bytes;
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      copy_async_16(to + chunk_at<bytes>(row + i * kRowsAtOnce, chunk), from[i] + at, at < left);
  }
};

// Slabs of kWeights rows of the weight and of kRows rows of x on their way through a ring of stages in shared memory, which
// `threads` threads fill: slabs first .. end, kStages - 1 of them under way while one is multiplied.
template <class Format, int kWeights, int kRows, int kStages, int threads>
struct SlabRing {
  static constexpr int kWeightBytes = kWeights * Format::kWeightBytes, kStageBytes = kWeightBytes + kRows * kSlabBytes;
  static constexpr int kBytes = kStages * kStageBytes;
  const SlabCopier<kWeights, Format::kWeightBytes, threads> weights;
  const SlabCopier<kRows, kSlabBytes, threads> x;
  u8* stages;
  int first, end;

  // weight_row and x_row give the rows of the operands that stand at a place in the tile.
  template <class WeightRow, class XRow>
  DEVICE SlabRing(const GemmOperands& operands, u8* stages, int first, int end, int thread, WeightRow weight_row, XRow x_row)
      : weights(operands.weights, operands.weight_stride, thread, weight_row),
        x(operands.x, operands.x_stride, thread, x_row),
        stages(stages),
        first(first),
        end(end) {}

  DEVICE void begin() const {
#pragma unroll
    for (int ahead = 0; ahead < kStages - 1; ++ahead) fetch(first + ahead);
  }
  DEVICE void fetch(int slab) const {
    if (slab < end) {
      weights.copy(weights_of(slab), slab);
      x.copy(x_of(slab), slab);
    }
    close_copy_group();
  }
  DEVICE u8* weights_of(int slab) const { return stages + (u32)(slab - first) % kStages * kStageBytes; }
  DEVICE u8* x_of(int slab) const { return weights_of(slab) + kWeightBytes; }
};

// A block's products of 16 * M weight rows and 8 * N rows of x: every warp takes a part, through a ring of its own.
//
//   warp p   |stage 0|stage 1|..|stage 0|..      slabs of part p; while one is multiplied, those of the other stages are
//                                                under way: kStages - 1 slabs of 16 * M rows for every warp
//   then     sums of part 0 | sums of part 1 | ... in the rings' place, added in this order by whoever stores them
template <class Format, int M, int N, int kStages>
struct SkinnyGemm {
  typedef typename Format::Sum Sum;
  typedef SlabRing<Format, M * 16, N * 8, kStages, 32> Ring;
  static constexpr int kRingBytes = Ring::kBytes;
  static_assert(kRingBytes >= M * N * 128 * (int)sizeof(Sum), "sums take the ring's place");

  template <class WeightRow, class XRow>
  DEVICE static void run(const GemmOperands& operands, u8* shared, WeightRow weight_row, XRow x_row) {
    const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    const int first = min(operands.slabs, part * operands.part_slabs), end = min(operands.slabs, first + operands.part_slabs);
    if (first == end) return;
    const Ring ring(operands, shared + part * kRingBytes, first, end, lane, weight_row, x_row);
    int rows[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
      for (int i = 0; i < 2; ++i) rows[m][i] = weight_row(m * 16 + i * 8 + lane / 4);
    Sum sums[M][N][4] = {};
    ring.begin();
    for (int slab = first; slab < end; ++slab) {
      wait_for_copies<kStages - 2>();
      __syncwarp();  // of all lanes: their copies are there, and they are done with the stage that is filled next
      ring.fetch(slab + kStages - 1);
      typename Format::template Scales<M> scales;
      scales.load(operands.scales, rows, slab);
      Format::multiply(sums, ring.weights_of(slab), ring.x_of(slab), scales);
    }
    __syncwarp();
    leave(reinterpret_cast<Sum*>(ring.stages), sums);
  }

  DEVICE static void leave(Sum* to, const Sum (&sums)[M][N][4]) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n)
        for (int i = 0; i < 4; ++i) to[(n * 8 + c * 2 + i % 2) * M * 16 + m * 16 + i / 2 * 8 + g] = sums[m][n][i];
  }

  // The sum of the parts at a place in the tile, once every warp has come to a barrier after run.
  DEVICE static Sum sum_at(const GemmOperands& operands, const u8* shared, int weight, int x) {
    Sum sum = 0;
    for (int part = 0; part < kParts && part * operands.part_slabs < operands.slabs; ++part)
      sum += reinterpret_cast<const Sum*>(shared + part * kRingBytes)[x * M * 16 + weight];
    return sum;
  }
};

// A block's products of many weight rows and rows of x over slabs first .. end, which begin where a part does.
//
//   stage    kWeights rows of a slab of the weight, kRows rows of a slab of x: all warps fill it, and all read it
//   warps    kWarpRows x kWarpCols, each with 16 * M weight rows and 8 * N rows of x in registers
template <class Format, int M, int N, int kWarpRows, int kWarpCols, int kStages>
struct TiledGemm {
  typedef typename Format::Sum Sum;
  static_assert(kWarpRows * kWarpCols * 32 == kGemmThreads, "the block's warps");
  static constexpr int kWeights = kWarpRows * M * 16, kRows = kWarpCols * N * 8;
  typedef SlabRing<Format, kWeights, kRows, kStages, kGemmThreads> Ring;
  static constexpr int kSumStride = kWeights + 4;
  static_assert(kRows * kSumStride * (int)sizeof(Sum) <= Ring::kBytes, "totals take the stages' place");

  // The first of this warp's rows in the tile.
  DEVICE static int first_weight() { return threadIdx.x / 32 % kWarpRows * M * 16; }
  DEVICE static int first_x() { return threadIdx.x / 32 / kWarpRows * N * 8; }

  // `idle` warps only copy: none of their rows are wanted. `totals` are zeros, to which parts are added.
  template <class WeightRow, class XRow>
  DEVICE static void run(const GemmOperands& operands, u8* shared, int first, int end, bool idle, WeightRow weight_row,
                         XRow x_row, Sum (&totals)[M][N][4]) {
    const Ring ring(operands, shared, first, end, threadIdx.x, weight_row, x_row);
    int rows[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
      for (int i = 0; i < 2; ++i) rows[m][i] = weight_row(first_weight() + m * 16 + i * 8 + threadIdx.x % 32 / 4);
    ring.begin();
    Sum sums[M][N][4] = {};
    for (int slab = first, left = operands.part_slabs; slab < end; ++slab) {
      wait_for_copies<kStages - 2>();
      __syncthreads();
      ring.fetch(slab + kStages - 1);
      if (idle) continue;
      typename Format::template Scales<M> scales;
      scales.load(operands.scales, rows, slab);
      Format::multiply(Format::kExact ? totals : sums, ring.weights_of(slab) + first_weight() * Format::kWeightBytes,
                       ring.x_of(slab) + first_x() * kSlabBytes, scales);
      if (Format::kExact || (--left > 0 && slab + 1 < end)) continue;
      left = operands.part_slabs;
      for_each(totals, [&](int m, int n, int i) {
        totals[m][n][i] += sums[m][n][i];
        sums[m][n][i] = 0;
      });
    }
  }

  template <class F>
  DEVICE static void for_each(const Sum (&)[M][N][4], F body) {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) body(m, n, i);
  }

  // Leaves the totals where the stages were, for the whole block to see after the next barrier, and says where: with
  // kSumStride from one row of x to the next, so that lanes write to different banks.
  DEVICE static Sum* leave(u8* shared, const Sum (&totals)[M][N][4]) {
    Sum* to = reinterpret_cast<Sum*>(shared);
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    __syncthreads();
    for_each(totals, [&](int m, int n, int i) {
      const int weight = first_weight() + m * 16 + i / 2 * 8 + g, x = first_x() + n * 8 + c * 2 + i % 2;
      to[x * kSumStride + weight] = totals[m][n][i];
    });
    return to;
  }
};
