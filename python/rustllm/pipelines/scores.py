"""From a model's raw scores to probabilities."""

from __future__ import annotations

import numpy as np

from rustllm.pipelines.pooled_model import Array

__all__ = ["sigmoid", "softmax"]


def softmax(scores: Array) -> Array:
    """Shares of the last axis that add up to 1."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(scores: Array) -> Array:
    """Each score on its own, from 0 to 1."""
    # exp of a number that is not positive cannot overflow.
    small = np.exp(-np.abs(scores))
    shares: Array = np.where(scores >= 0, 1 / (1 + small), small / (1 + small)).astype(scores.dtype)
    return shares
