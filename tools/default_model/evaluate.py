"""Held-out loss, the number the training reports and the export is checked against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def held_out_loss(loss: Loss, stream: NDArray[np.int64], context: int) -> float:
    """Return the mean loss in nats per token of ``stream``, cut into windows of ``context``.

    ``loss(token_ids, targets)`` gives the mean over one window. A window sees nothing of the one
    before, so the number is an upper bound of what a sliding window would give.
    """
    tokens = torch.from_numpy(stream)
    total = 0.0
    for begin in range(0, len(tokens) - 1, context):
        targets = tokens[begin + 1 : begin + 1 + context]
        token_ids = tokens[begin : begin + len(targets)]
        total += loss(token_ids[None], targets[None]).item() * len(targets)
    return total / (len(tokens) - 1)
