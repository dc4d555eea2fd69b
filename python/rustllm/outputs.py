"""What a request returns."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CompletionOutput",
    "Logprob",
    "PromptLogprobs",
    "RequestOutput",
    "RequestStateStats",
    "SampleLogprobs",
]


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log probability of one token at one position."""

    logprob: float
    rank: int | None = None
    """1 for the likeliest token of the vocabulary."""
    decoded_token: str | None = None
    """The token as text; `None` when the request asked not to detokenize."""


SampleLogprobs = list[dict[int, Logprob]]
"""One entry for each generated token: the token that was chosen, then the likeliest ones."""

PromptLogprobs = list["dict[int, Logprob] | None"]
"""One entry for each prompt token; nothing comes before the first, so its entry is `None`."""


@dataclass(slots=True)
class CompletionOutput:
    """One of the `n` completions of a request."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    """Sum over the generated tokens, when `logprobs` were asked for."""
    logprobs: SampleLogprobs | None = None
    finish_reason: str | None = None
    """`stop`, `length`, `abort` or `error`; `None` while it runs."""
    stop_reason: int | str | None = None
    """The stop string or stop token id that ended it; `None` for end-of-sequence."""

    def finished(self) -> bool:
        """Whether the completion has ended."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestStateStats:
    """When things happened to a request. `*_ts` values are readings of `time.monotonic`."""

    arrival_time: float = 0.0
    """Wall clock, seconds since 1970."""
    queued_ts: float = 0.0
    """Handed to the engine."""
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0
    first_token_latency: float = 0.0
    """Seconds from arrival to the first token."""
    num_generation_tokens: int = 0
    num_preemptions: int = 0


@dataclass(slots=True)
class RequestOutput:
    """The state of a request: final, or one of a stream."""

    request_id: str
    prompt: str | None
    """`None` when the prompt was given as token ids."""
    prompt_token_ids: list[int]
    prompt_logprobs: PromptLogprobs | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestStateStats | None = None
    num_cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache."""

    def add(self, later: RequestOutput, *, aggregate: bool) -> None:
        """Takes in a later output of the same request.

        Args:
            later: The output that came after this one.
            aggregate: True where outputs are deltas to join, false where the later one replaces.
        """
        self.finished |= later.finished
        self.metrics = later.metrics
        self.num_cached_tokens = later.num_cached_tokens
        if self.prompt_logprobs is None:
            self.prompt_logprobs = later.prompt_logprobs
        known = {completion.index: place for place, completion in enumerate(self.outputs)}
        for completion in later.outputs:
            place = known.get(completion.index)
            if place is None:
                self.outputs.append(completion)
            elif aggregate:
                _join(self.outputs[place], completion)
            else:
                self.outputs[place] = completion


def _join(first: CompletionOutput, later: CompletionOutput) -> None:
    first.text += later.text
    first.token_ids.extend(later.token_ids)
    if later.logprobs:
        first.logprobs = [*(first.logprobs or ()), *later.logprobs]
    first.cumulative_logprob = later.cumulative_logprob
    first.finish_reason = later.finish_reason
    first.stop_reason = later.stop_reason
