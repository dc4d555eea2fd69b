// Activations, and what stands between the two products of a gated feed-forward layer.
#pragma once
#include "device.cuh"

// Numbers that name activations: rust/cuda/src/backend.rs has the same.
enum Activation { kSilu, kGelu, kGeluTanh, kRelu, kTanh, kReluSquared };

DEVICE float activate(float x, int activation) {
  switch (activation) {
    case kSilu: return x / (1.0f + expf(-x));
    case kGelu: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case kGeluTanh: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case kRelu: return x < 0.0f ? 0.0f : x;
    case kTanh: return tanhf(x);
    default: return x < 0.0f ? 0.0f : x * x;
  }
}

// activation(gate) * up, or where `clamps` is not zero (clamp(up) + 1) * g * sigmoid(alpha * g), g the gate of at most
// `limit`. rust/cuda/src/moe.rs has the same.
struct Gate {
  int activation, clamps;
  float alpha, limit;

  DEVICE float operator()(float gate, float up) const {
    if (!clamps) return activate(gate, activation) * up;
    // Comparisons, because fminf and fmaxf would make a number of NaN.
    const float g = gate > limit ? limit : gate;
    const float u = up > limit ? limit : up < -limit ? -limit : up;
    return (u + 1.0f) * (g / (1.0f + expf(-alpha * g)));
  }
};
