// Loads of fragments from shared memory: four matrices of 8 rows of 16 bytes. Lane i gives the address of row i % 8 of matrix
// i / 8, and has of each matrix the two numbers of 16 bits that mma.cuh says: of row lane / 4, or of column lane / 4 where
// they are transposed.
#pragma once
#include "device.cuh"

#ifdef RUSTLLM_SIMULATOR

template <bool transposed>
DEVICE void load_matrices(u32& a, u32& b, u32& c, u32& d, const void* row) {
  auto rows = ::simulator::exchange(~0u, row, "ldmatrix");
  const u32 lane = ::simulator::lane->index, outer = lane / 4, inner = lane % 4 * 2;
  u32* to[4] = {&a, &b, &c, &d};
  for (u32 matrix = 0; matrix < 4; ++matrix) {
    u16 pair[2];
    for (u32 i = 0; i < 2; ++i) {
      const u32 from = transposed ? inner + i : outer, at = transposed ? outer : inner + i;
      std::memcpy(&pair[i], ::simulator::value_of<const char*>(rows, matrix * 8 + from) + 2 * at, 2);
    }
    *to[matrix] = pair[0] | (u32)pair[1] << 16;
  }
}

#else

template <bool transposed>
DEVICE void load_matrices(u32& a, u32& b, u32& c, u32& d, const void* row) {
  const u32 address = (u32)__cvta_generic_to_shared(row);
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(address)
                 : "memory");
}

#endif
