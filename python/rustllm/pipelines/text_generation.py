"""`text-generation`: texts gone on with, conversations answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.llm import LLM
from rustllm.outputs import RequestOutput
from rustllm.pipelines.base import Pipeline
from rustllm.sampling_params import SamplingParams

__all__ = ["SamplingOptions", "TextGenerationOptions", "TextGenerationPipeline", "load_generator"]

_DEFAULTS: Final = {"max_tokens": 256, "temperature": 0.7, "top_k": 50}
"""What the pipelines of transformers take where the model says nothing."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen, by the names of transformers. `None`: what the model says.

    Args:
        max_new_tokens: Most tokens of an answer; 256 if the model does not say.
        min_new_tokens: Fewest tokens of an answer.
        do_sample: False for the likeliest token always.
        temperature: 0.7 if the model does not say.
        top_k: Choose among so many tokens; 50 if the model does not say.
        top_p: Choose among the likeliest tokens of so much probability together.
        repetition_penalty: Above 1 for less repetition.
        seed: For the same answer again.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def sampling_params(self, llm: LLM, **more: Any) -> SamplingParams:
        """These options, over what the model says, over the defaults."""
        given = {
            "max_tokens": self.max_new_tokens,
            "min_tokens": self.min_new_tokens,
            "temperature": 0.0 if self.do_sample is False else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            **more,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        of_model = llm.llm_engine.model.default_sampling_fields
        return SamplingParams(**{**_DEFAULTS, **of_model, **chosen})


@dataclass(frozen=True)
class TextGenerationOptions(SamplingOptions):
    """Options of a call: those of `SamplingOptions`, and these.

    Args:
        num_return_sequences: How many texts for each input.
        return_full_text: Whether a result begins with its input.
        return_tensors: Return token ids, prompt included, in place of text.
        stop_sequence: A text, or several, at which to stop; it is part of the result.
        continue_final_message: Go on with a conversation's last message; by default if that is the
            assistant's.
    """

    num_return_sequences: int = 1
    return_full_text: bool = True
    return_tensors: bool = False
    stop_sequence: str | Sequence[str] | None = None
    continue_final_message: bool | None = None


class TextGenerationPipeline(Pipeline):
    """Goes on with texts, and answers conversations.

    An input is a text, or a conversation: a list of `{"role": ..., "content": ...}`. The result is
    a list of `{"generated_text": ...}`, as many as `num_return_sequences`; of a conversation,
    the text is the conversation with its answer. With `return_tensors`, `generated_token_ids`.
    """

    task = "text-generation"
    options_type = TextGenerationOptions

    def _load(self, engine_args: EngineArgs) -> None:
        self.llm = load_generator(engine_args, self.task)

    def _is_one(self, inputs: Any) -> bool:
        return super()._is_one(inputs) or _is_chat(inputs)

    def _run(self, items: Sequence[Any], options: TextGenerationOptions) -> list[Any]:
        stop = options.stop_sequence
        params = options.sampling_params(
            self.llm,
            n=options.num_return_sequences,
            stop=[stop] if isinstance(stop, str) else stop,
            include_stop_str_in_output=None if stop is None else True,
        )
        outputs = self._generate(items, params, options)
        return [
            [_record(item, output, place, options) for place in range(len(output.outputs))]
            for item, output in zip(items, outputs, strict=True)
        ]

    def _generate(
        self, items: Sequence[Any], params: SamplingParams, options: TextGenerationOptions
    ) -> list[RequestOutput]:
        """The engine's outputs, in order; texts, and each kind of conversation, are a batch."""
        outputs: dict[int, RequestOutput] = {}
        for kind in ("text", "answer", "continue"):
            places = [place for place, item in enumerate(items) if _kind(item, options) == kind]
            chosen = [items[place] for place in places]
            done: list[RequestOutput] = []
            if chosen and kind == "text":
                done = self.llm.generate(chosen, params, use_tqdm=False)
            elif chosen:
                done = self.llm.chat(
                    chosen,
                    params,
                    use_tqdm=False,
                    add_generation_prompt=kind == "answer",
                    continue_final_message=kind == "continue",
                )
            outputs.update(zip(places, done, strict=True))
        return [outputs[place] for place in range(len(items))]


def load_generator(engine_args: EngineArgs, task: str) -> LLM:
    """Starts a model that generates text.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: a model that generates no text.
    """
    llm = LLM.from_engine_args(engine_args)
    info = llm.llm_engine.model_info
    if "generate" not in info.supported_tasks:
        able = ", ".join(info.supported_tasks)
        message = f"{info.architecture} cannot do {task}, it generates no text; it can do {able}"
        raise ValidationError(message, parameter="task", value=task)
    return llm


def _is_chat(inputs: Any) -> bool:
    """Whether this is one conversation."""
    is_list = isinstance(inputs, (list, tuple)) and len(inputs) > 0
    return is_list and isinstance(inputs[0], Mapping)


def _kind(item: Any, options: TextGenerationOptions) -> str:
    if isinstance(item, str):
        return "text"
    if not _is_chat(item):
        message = f"an input must be a text or a conversation, got {type(item).__name__}"
        raise ValidationError(message, parameter="inputs", value=item)
    return "continue" if _continues(item, options) else "answer"


def _continues(messages: Sequence[Mapping[str, Any]], options: TextGenerationOptions) -> bool:
    if options.continue_final_message is None:
        return bool(messages[-1]["role"] == "assistant")
    return options.continue_final_message


def _record(
    item: Any, output: RequestOutput, place: int, options: TextGenerationOptions
) -> dict[str, Any]:
    completion = output.outputs[place]
    if options.return_tensors:
        return {"generated_token_ids": [*output.prompt_token_ids, *completion.token_ids]}
    text: Any = completion.text
    if options.return_full_text:
        text = _with_input(item, text, options)
    return {"generated_text": text}


def _with_input(item: Any, text: str, options: TextGenerationOptions) -> Any:
    if isinstance(item, str):
        return item + text
    messages = [dict(message) for message in item]
    if _continues(item, options):
        messages[-1]["content"] += text
    else:
        messages.append({"role": "assistant", "content": text})
    return messages
