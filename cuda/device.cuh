// The one header of the kernels. It needs no header of NVIDIA's, so that one source goes through three compilers: nvcc when
// the library is built, NVRTC when it runs without a built image, and g++, whose programs run in the simulator.
#pragma once

#ifdef RUSTLLM_SIMULATOR
#include "simulator/shim.hpp"
#endif

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE __device__ __forceinline__

// KERNEL(threads) begins a kernel that is launched with so many threads a block, and found by its name; EXPORT(name) follows
// its body. KERNEL(threads, blocks) says how many blocks a multiprocessor must have room for: where that is not said, nvcc
// may spill registers to make room for more.
#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#ifdef RUSTLLM_SIMULATOR
#define EXPORT(name)                                                                                            \
  static const bool exported_##name =                                                                           \
      (::simulator::kernels()[#name] = ::simulator::Kernel{                                                     \
           [](const ::simulator::Kernel&, dim3 grid, dim3 block, size_t shared_bytes, void** arguments,         \
              uint64_t schedule) { ::simulator::launch(name, grid, block, shared_bytes, arguments, schedule); }, \
           ::simulator::argument_sizes(name), 0},                                                               \
       true);
#define DYNAMIC_SHARED(T, name) T* name = ::simulator::dynamic_shared<T>()
#else
#define EXPORT(name)
#define DYNAMIC_SHARED(T, name)                                \
  extern __shared__ __align__(128) unsigned char dynamic_shared_[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
#endif

// -- numbers --------------------------------------------------------------------------------------------------------

struct __align__(2) f16 {
  u16 bits;
};
struct __align__(2) bf16 {
  u16 bits;
};

DEVICE float infinity() { return __uint_as_float(0x7f800000u); }
DEVICE float nan_f32() { return __uint_as_float(0x7fffffffu); }

DEVICE float to_f32(float value) { return value; }
DEVICE float to_f32(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

template <class T>
DEVICE T from_f32(float value);
template <>
DEVICE float from_f32<float>(float value) {
  return value;
}

#ifdef RUSTLLM_SIMULATOR
// As the processor's own conversion, which some compilers call a function for.
DEVICE float to_f32(f16 value) {
  const u32 bits = (u32)(value.bits & 0x7fff) << 13, sign = (u32)(value.bits & 0x8000) << 16;
  const bool finite = (value.bits & 0x7c00) != 0x7c00;
  const float magnitude = finite ? __uint_as_float(bits) * 0x1p112f : __uint_as_float(bits | 0x7f800000u);
  return __uint_as_float(__float_as_uint(magnitude) | sign);
}
template <>
DEVICE f16 from_f32<f16>(float value) {
  const _Float16 half = value;
  f16 result;
  std::memcpy(&result, &half, sizeof half);
  return result;
}
template <>
DEVICE bf16 from_f32<bf16>(float value) {
  const u32 bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
  return bf16{(u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#else
DEVICE float to_f32(f16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
template <>
DEVICE f16 from_f32<f16>(float value) {
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
template <>
DEVICE bf16 from_f32<bf16>(float value) {
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
#endif

// -- operands -------------------------------------------------------------------------------------------------------

// Rows of float32, `stride` elements apart: a tensor as the host passes it, by value.
struct Matrix {
  float* data;
  int rows, cols;
  i64 stride;

  DEVICE float* row(i64 index) const { return data + index * stride; }
};

// -- reductions: in an order fixed by the number of threads ---------------------------------------------------------

DEVICE float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) value = fmaxf(value, __shfl_xor_sync(~0u, value, distance));
  return value;
}

// The sum over a block of whole warps, for every thread. `scratch` has a place for each warp, and may be used again after
// the next barrier.
DEVICE float block_sum(float value, float* scratch) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f;
  return warp_sum(value);
}

// The largest of a block's values, for every thread; `scratch` as with block_sum.
DEVICE float block_max(float value, float* scratch) {
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : -infinity());
}

// -- loads ----------------------------------------------------------------------------------------------------------

// Calls body(i, from[i]) for the i below n of this lane, in ascending order: eight are read before the first call, since no
// compiler reads past a store that might be to the same place.
template <class B>
DEVICE void for_each_of_lane(const float* from, int n, B body) {
  for (int first = threadIdx.x % 32; first < n; first += 256) {
    float values[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] = first + k * 32 < n ? from[first + k * 32] : 0.0f;
#pragma unroll
    for (int k = 0; k < 8; ++k)
      if (first + k * 32 < n) body(first + k * 32, values[k]);
  }
}
