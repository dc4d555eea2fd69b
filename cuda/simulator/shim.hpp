// Runs CUDA kernels on a processor, so that their meaning can be tested where there is no GPU.
//
//   kernel.cu --g++ -x c++ -DRUSTLLM_SIMULATOR--> an ordinary function that one call runs for one CUDA thread
//
//   block:   warp 0 [lane 0 .. 31]  warp 1 [lane 0 .. 31]  ...     each lane is a fiber with a stack of its own
//            runs until a barrier or a warp collective, then the next lane runs; one block at a time
//
// It looks for defects, not only for results: the order in which lanes, warps and blocks run is a test's input (schedule 0
// is forward, 1 is backward, others are shuffled), warps run as far ahead of each other as barriers let them, shared memory
// starts as NaN, and a `cp.async` copies no sooner than its wait. So a missing barrier or wait shows as NaN, or as results
// that differ between schedules; threads that wait for each other forever, and lanes of a warp in different collectives,
// end the process with a line that says where.
//
// Not modelled: memory order between blocks, bank conflicts, speed, wgmma and TMA, the last bit of approximate functions.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <sys/mman.h>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static thread_local
#define __restrict__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace simulator {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kMaxExchange = 32;

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "CUDA simulator: %s\n", what.c_str());
  std::abort();
}

// A collective of the lanes in `mask`. Values of two generations are kept: a lane may enter the next collective before
// another has read the last one's values.
struct Exchange {
  unsigned mask, arrived = 0, generation = 0;
  const char* where = "";
  alignas(16) unsigned char values[2][kWarp][kMaxExchange];
};

struct PendingCopy {
  void* to;
  const void* from;
  unsigned bytes, group;
};

struct Lane {
  void* stack_pointer = nullptr;
  dim3 thread;
  unsigned warp = 0, index = 0;  // index: within the warp
  bool done = false;
  const unsigned* waits_on = nullptr;  // runs again once this differs from `waits_while`
  unsigned waits_while = 0;
  const char* where = "";
  std::vector<PendingCopy> copies;  // cp.async: made by the wait for their group
  unsigned copy_group = 0;
};

struct Block {
  dim3 index, size, grid;
  std::vector<Lane> lanes;
  std::vector<std::deque<Exchange>> warps;
  unsigned barrier_generation = 0, at_barrier = 0, alive = 0;
  int votes[2] = {0, 0};
  std::vector<unsigned char> dynamic;
  void* scheduler_stack_pointer = nullptr;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::mt19937_64 random;
};

// The stacks of lanes by their place in the block. A thread of the host runs one block at a time, so that all kernels share them.
class Stacks {
 public:
  ~Stacks() {
    for (char* stack : stacks_) munmap(stack, kStackBytes);
  }

  char* of(size_t lane) {
    while (stacks_.size() <= lane) {
      void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (stack == MAP_FAILED) fail("no memory for a thread's stack");
      mprotect(stack, 4096, PROT_NONE);  // a stack that overflows stops the test
      stacks_.push_back(static_cast<char*>(stack));
    }
    return stacks_[lane];
  }

 private:
  std::vector<char*> stacks_;
};

inline thread_local Stacks stacks;
inline thread_local Block* block = nullptr;
inline thread_local Lane* lane = nullptr;

// Saves the registers that a call keeps, stores the stack pointer in *save (rdi) and goes on at `resume` (rsi).
__attribute__((naked, noinline)) inline void switch_stacks(void** /*save*/, void* /*resume*/) {
  asm volatile(
      "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi);"
      "mov %rsi, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}

inline void wait_while(const unsigned* generation, unsigned value, const char* where) {
  lane->waits_on = generation;
  lane->waits_while = value;
  lane->where = where;
  switch_stacks(&lane->stack_pointer, block->scheduler_stack_pointer);
}

// Lanes that have returned no longer count at barriers, as on the hardware.
inline void open_barrier_if_all_came() {
  if (block->at_barrier == 0 || block->at_barrier < block->alive) return;
  block->at_barrier = 0;
  ++block->barrier_generation;
  block->votes[block->barrier_generation & 1] = 0;
}

inline void run_lane() {
  block->body(block->argument);
  lane->done = true;
  --block->alive;
  open_barrier_if_all_came();
  switch_stacks(&lane->stack_pointer, block->scheduler_stack_pointer);
  fail("a thread that had returned ran again");
}

inline void prepare(Lane& lane, char* stack) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&run_lane);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  lane.stack_pointer = top;
  lane.done = false;
  lane.waits_on = nullptr;
  lane.copies.clear();
  lane.copy_group = 0;
}

[[noreturn]] inline void report_deadlock() {
  std::map<std::string, int> waiting;
  for (const Lane& lane : block->lanes) ++waiting[lane.done ? "returned" : lane.where];
  std::string what = "deadlock in block " + std::to_string(block->index.x) + "," + std::to_string(block->index.y) + "," +
                     std::to_string(block->index.z) + ":";
  for (const auto& [where, count] : waiting) what += " " + std::to_string(count) + " threads at " + where + ";";
  fail(what);
}

inline bool can_run(const Lane& lane) { return !lane.done && !(lane.waits_on && *lane.waits_on == lane.waits_while); }

// The most skewed schedule there is: a warp runs until all of its lanes wait at a block's barrier, then the next one does.
inline void run_block(uint64_t schedule) {
  Block& b = *block;
  b.barrier_generation = b.at_barrier = 0;
  b.alive = b.lanes.size();
  b.votes[0] = b.votes[1] = 0;
  std::fill(b.dynamic.begin(), b.dynamic.end(), 0xFF);
  for (size_t i = 0; i < b.lanes.size(); ++i) prepare(b.lanes[i], stacks.of(i));
  for (auto& warp : b.warps) warp.clear();
  std::vector<unsigned> warps(b.warps.size()), lanes(kWarp);
  for (unsigned i = 0; i < warps.size(); ++i) warps[i] = schedule == 1 ? warps.size() - 1 - i : i;
  for (unsigned i = 0; i < kWarp; ++i) lanes[i] = schedule == 1 ? kWarp - 1 - i : i;
  while (b.alive) {
    if (schedule > 1) std::shuffle(warps.begin(), warps.end(), b.random);
    bool any_ran = false;
    for (unsigned warp : warps) {
      for (bool ran = true; ran;) {
        ran = false;
        if (schedule > 1) std::shuffle(lanes.begin(), lanes.end(), b.random);
        for (unsigned i : lanes) {
          if (warp * kWarp + i >= b.lanes.size() || !can_run(b.lanes[warp * kWarp + i])) continue;
          lane = &b.lanes[warp * kWarp + i];
          lane->waits_on = nullptr;
          any_ran = ran = true;
          switch_stacks(&b.scheduler_stack_pointer, lane->stack_pointer);
        }
      }
    }
    if (!any_ran) report_deadlock();
  }
}

inline void barrier(const char* where) {
  const unsigned generation = block->barrier_generation;
  ++block->at_barrier;
  open_barrier_if_all_came();
  if (block->barrier_generation == generation) wait_while(&block->barrier_generation, generation, where);
}

inline int barrier_or(int predicate, const char* where) {
  const unsigned generation = block->barrier_generation;
  block->votes[generation & 1] |= predicate != 0;
  barrier(where);
  return block->votes[generation & 1];
}

// The lanes of `mask` that the block really has.
inline unsigned existing(unsigned mask) {
  const unsigned lanes = std::min<unsigned>(kWarp, block->lanes.size() - lane->warp * kWarp);
  return lanes == kWarp ? mask : mask & ((1u << lanes) - 1);
}

using Values = const unsigned char (*)[kMaxExchange];

// Brings `value` to the collective and returns what all lanes brought, once they have.
template <class T>
inline Values exchange(unsigned mask, const T& value, const char* where) {
  static_assert(sizeof(T) <= kMaxExchange);
  mask = existing(mask);
  if (!(mask >> lane->index & 1)) fail(std::string(where) + ": the calling lane is not in the mask");
  auto& warp = block->warps[lane->warp];
  auto found = std::find_if(warp.begin(), warp.end(), [&](const Exchange& e) { return e.mask == mask; });
  Exchange& e = found == warp.end() ? warp.emplace_back(Exchange{mask}) : *found;
  if (e.arrived && e.where != where && std::strcmp(e.where, where))
    fail(std::string("lanes of one warp are in different collectives: ") + e.where + " and " + where);
  e.where = where;
  const unsigned generation = e.generation;
  std::memcpy(e.values[generation & 1][lane->index], &value, sizeof value);
  e.arrived |= 1u << lane->index;
  if (e.arrived == mask) {
    e.arrived = 0;
    ++e.generation;
  } else {
    wait_while(&e.generation, generation, where);
  }
  return e.values[generation & 1];
}

template <class T>
inline T value_of(Values values, unsigned lane) {
  T value;
  std::memcpy(&value, values[lane], sizeof value);
  return value;
}

template <class T>
inline T shuffle(unsigned mask, T value, unsigned from, const char* where) {
  Values values = exchange(mask, value, where);
  return from < kWarp && (existing(mask) >> from & 1) ? value_of<T>(values, from) : value;
}

inline unsigned ballot(unsigned mask, int predicate, const char* where) {
  Values values = exchange(mask, predicate, where);
  unsigned result = 0;
  for (unsigned i = 0; i < kWarp; ++i) result |= unsigned((existing(mask) >> i & 1) && value_of<int>(values, i)) << i;
  return result;
}

inline void copy_later(void* to, const void* from, unsigned bytes) {
  std::memset(to, 0xFF, bytes);
  lane->copies.push_back({to, from, bytes, lane->copy_group});
}

inline void wait_for_copies(unsigned groups_left) {
  const unsigned due = lane->copy_group > groups_left ? lane->copy_group - groups_left : 0;
  for (const PendingCopy& copy : lane->copies)
    if (copy.group < due) std::memcpy(copy.to, copy.from, copy.bytes);
  std::erase_if(lane->copies, [&](const PendingCopy& copy) { return copy.group < due; });
}

// A kernel by its name, as cuModuleGetFunction finds it.
struct Kernel {
  void (*launch)(const Kernel&, dim3 grid, dim3 block, size_t shared_bytes, void** arguments, uint64_t schedule);
  std::vector<size_t> argument_bytes;
  int max_dynamic_shared;  // what a launch may take, once somebody asked
};

inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> kernels;
  return kernels;
}

template <class... A>
struct Call {
  void (*kernel)(A...);
  void** arguments;

  template <size_t... I>
  void run(std::index_sequence<I...>) const {
    kernel(*static_cast<std::decay_t<A>*>(arguments[I])...);
  }
};

template <class... A>
inline void launch(void (*kernel)(A...), dim3 grid, dim3 size, size_t shared_bytes, void** arguments, uint64_t schedule) {
  static thread_local Block b;
  block = &b;
  b.size = size;
  b.grid = grid;
  b.random.seed(schedule);
  const unsigned threads = size.x * size.y * size.z;
  b.lanes.resize(threads);
  b.warps.resize((threads + kWarp - 1) / kWarp);
  for (unsigned i = 0; i < threads; ++i) {
    b.lanes[i].index = i % kWarp;
    b.lanes[i].warp = i / kWarp;
    b.lanes[i].thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
  }
  b.dynamic.resize(shared_bytes + 128);
  Call<A...> call{kernel, arguments};
  b.argument = &call;
  b.body = [](void* call) { static_cast<Call<A...>*>(call)->run(std::index_sequence_for<A...>{}); };
  const unsigned blocks = grid.x * grid.y * grid.z;
  for (unsigned i = 0; i < blocks; ++i) {
    const unsigned j = schedule == 1 ? blocks - 1 - i : i;
    b.index = {j % grid.x, j / grid.x % grid.y, j / grid.x / grid.y};
    run_block(schedule);
  }
}

template <class... A>
std::vector<size_t> argument_sizes(void (*)(A...)) {
  return {sizeof(std::decay_t<A>)...};
}

template <class T>
inline T* dynamic_shared() {
  if (sizeof(T) + 128 > block->dynamic.size()) fail("a block's shared memory is larger than its launch says");
  const uintptr_t address = reinterpret_cast<uintptr_t>(block->dynamic.data());
  return reinterpret_cast<T*>((address + 127) & ~uintptr_t(127));
}

}  // namespace simulator

#define threadIdx (::simulator::lane->thread)
#define blockIdx (::simulator::block->index)
#define blockDim (::simulator::block->size)
#define gridDim (::simulator::block->grid)

#define SIMULATOR_TEXT_OF(x) #x
#define SIMULATOR_TEXT(x) SIMULATOR_TEXT_OF(x)
#define SIMULATOR_HERE(op) op " " __FILE__ ":" SIMULATOR_TEXT(__LINE__)
#define __syncthreads() ::simulator::barrier(SIMULATOR_HERE("__syncthreads"))
#define __syncthreads_or(p) ::simulator::barrier_or((p), SIMULATOR_HERE("__syncthreads_or"))
#define __syncwarp() ((void)::simulator::exchange(~0u, 0, SIMULATOR_HERE("__syncwarp")))
#define __shfl_sync(m, v, l) ::simulator::shuffle((m), (v), (unsigned)(l) & 31, SIMULATOR_HERE("__shfl_sync"))
#define __shfl_xor_sync(m, v, x) ::simulator::shuffle((m), (v), ::simulator::lane->index ^ (x), SIMULATOR_HERE("__shfl_xor_sync"))
#define __shfl_down_sync(m, v, d) ::simulator::shuffle((m), (v), ::simulator::lane->index + (d), SIMULATOR_HERE("__shfl_down_sync"))
#define __shfl_up_sync(m, v, d) ::simulator::shuffle((m), (v), ::simulator::lane->index - (d), SIMULATOR_HERE("__shfl_up_sync"))
#define __ballot_sync(m, p) ::simulator::ballot((m), (p), SIMULATOR_HERE("__ballot_sync"))
#define __any_sync(m, p) (__ballot_sync(m, p) != 0)

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline void __threadfence() {}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
template <class T>
inline T __ldg(const T* from) {
  return *from;
}
template <class T>
inline T atomicAdd(T* to, T value) {
  std::atomic_ref<T> target(*to);
  T old = target.load();
  while (!target.compare_exchange_weak(old, old + value)) {
  }
  return old;
}
template <class T>
inline T atomicMax(T* to, T value) {
  std::atomic_ref<T> target(*to);
  T old = target.load();
  while (old < value && !target.compare_exchange_weak(old, value)) {
  }
  return old;
}
template <class T>
inline T atomicMin(T* to, T value) {
  std::atomic_ref<T> target(*to);
  T old = target.load();
  while (value < old && !target.compare_exchange_weak(old, value)) {
  }
  return old;
}
