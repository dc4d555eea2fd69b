// What the kernels of a mixture of experts share: who computes what. rust/cuda/src/moe.rs has the same structs.
//
//   choices    choice c = row * top_k + place          row 0: e2 e0     row 1: e0 e3     row 2: e2 e3
//   order      | 1 2 | 0 4 | 3 5 |                     choices sorted by expert: e0, e2, e3
//   tiles      | e0  | e2  | e3  | -                   some choices of one expert; the last tiles may be empty
#pragma once
#include "device.cuh"

// A weight's addresses, in the layout of weight.cu, and those of its bias, null without one.
struct ExpertWeight {
  const void* codes;
  const void* scales;
  const u8* zeros;
  const float* bias;
};

struct ExpertWeights {
  ExpertWeight gate_up, down;
};

// Choices `first` .. `first + rows` of the order, all of one expert.
struct Tile {
  int expert, first, rows, reserved;
};
