"""Handing requests of either kind to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rustllm._core import Engine
from rustllm.output_processor import AnyState
from rustllm.pooling_state import PoolingState

__all__ = ["submit"]


def submit(engine: Engine, states: Sequence[AnyState[Any]], priorities: Sequence[int]) -> None:
    """Queues the requests of `states`, all of one kind: all of them, or none if one is bad.

    Raises:
        ValidationError: one is.
        EngineDeadError: the engine has stopped.
    """
    generating, pooling = [], []
    for state, priority in zip(states, priorities, strict=True):
        if isinstance(state, PoolingState):
            asked = state.request
            pooling.append(
                (
                    state.engine_id,
                    asked.prompt_token_ids,
                    asked.token_type_ids,
                    asked.params,
                    priority,
                    asked.cache_salt,
                )
            )
        else:
            wanted = state.request
            generating.append(
                (
                    state.engine_id,
                    wanted.prompt_token_ids,
                    wanted.params,
                    priority,
                    wanted.cache_salt,
                )
            )
    if generating:
        engine.add_requests(generating)
    if pooling:
        engine.add_pooling_requests(pooling)
