"""What pipelines share: options, one input or many, and the way through the engine.

inputs ─► encode ─► engine, a batch of inputs at once ─► postprocess, input by input ─► results
"""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextPair, Words
from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.pipelines.pooled_model import Array, PooledModel

__all__ = ["Pipeline", "PoolingPipeline"]

BATCH_SIZE: Final = 256
"""Inputs that are worked on at once, if the user does not say."""


class Pipeline(ABC):
    """A task over a model.

    Args:
        engine_args: What to start the engine with.
        batch_size: Inputs that are worked on at once.
        **options: Defaults of the task's options.

    Attributes:
        task: Its name.
        options_type: A dataclass with the options of a call and their defaults.
        engine_defaults: Engine arguments that the task needs, where the user gives no others.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an option that cannot be used, or a model that cannot do the task.
    """

    task: ClassVar[str]
    options_type: ClassVar[type[Any]]
    engine_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, engine_args: EngineArgs, *, batch_size: int = BATCH_SIZE, **options: Any
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            message = f"batch_size must be at least 1, got {batch_size!r}"
            raise ValidationError(message, parameter="batch_size", value=batch_size)
        self._batch_size = batch_size
        self._defaults = self.options_type()
        self._defaults = self._read_options(options)
        self._load(engine_args)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Runs the task.

        Args:
            inputs: One input; a list of inputs, for a list of results; or a generator of inputs,
                for one of results, that reads ahead by a batch.
            **options: The task's options, before those the pipeline was made with.

        Raises:
            ValidationError: an input or an option that cannot be used.
        """
        return self._call(inputs, self._read_options(options))

    @abstractmethod
    def _load(self, engine_args: EngineArgs) -> None:
        """Starts the engine and checks that its model can do the task."""

    @abstractmethod
    def _run(self, items: Sequence[Any], options: Any) -> list[Any]:
        """A result for each of a batch of inputs."""

    def _is_one(self, inputs: Any) -> bool:
        """Whether this is a single input."""
        is_several = isinstance(inputs, (list, tuple, Iterator))
        return not is_several or isinstance(inputs, (TextPair, Words))

    def _call(self, inputs: Any, options: Any) -> Any:
        if self._is_one(inputs):
            return self._run([inputs], options)[0]
        results = self._stream(inputs, options)
        return results if isinstance(inputs, Iterator) else list(results)

    def _stream(self, inputs: Iterable[Any], options: Any) -> Iterator[Any]:
        rest = iter(inputs)
        while batch := list(itertools.islice(rest, self._batch_size)):
            yield from self._run(batch, options)

    def _read_options(self, given: Mapping[str, Any]) -> Any:
        known = [field.name for field in dataclasses.fields(self.options_type)]
        for name, value in given.items():
            if name not in known:
                message = f"{self.task} has no option {name!r}; it has {', '.join(known)}"
                raise ValidationError(message, parameter=name, value=value)
        return dataclasses.replace(self._defaults, **given)


class PoolingPipeline(Pipeline):
    """A task that is done by reading texts, not by writing any."""

    model: PooledModel

    def _load(self, engine_args: EngineArgs) -> None:
        self.model = PooledModel(engine_args)
        self.model.require(self.task)

    @abstractmethod
    def _encode(self, items: Sequence[Any], options: Any) -> list[list[Encoding]]:
        """The prompts of each input, one or several."""

    @abstractmethod
    def _pooling_params(self, options: Any) -> PoolingParams:
        """What the engine is to make of prompts."""

    @abstractmethod
    def _postprocess(
        self, item: Any, prompts: Sequence[Encoding], outputs: Sequence[Array], options: Any
    ) -> Any:
        """The result of one input, from what the engine made of its prompts."""

    def _run(self, items: Sequence[Any], options: Any) -> list[Any]:
        prompts = self._encode(items, options)
        flat = [prompt for group in prompts for prompt in group]
        outputs = iter(self.model.pool(flat, self._pooling_params(options)))
        return [
            self._postprocess(item, group, list(itertools.islice(outputs, len(group))), options)
            for item, group in zip(items, prompts, strict=True)
        ]
