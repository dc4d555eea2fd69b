"""One completion of a running request: its tokens, text and log probabilities so far."""

from __future__ import annotations

from collections.abc import Sequence

from rustllm._core import EngineOutput
from rustllm.detokenizer import IncrementalDetokenizer
from rustllm.outputs import CompletionOutput, Logprob, SampleLogprobs
from rustllm.sampling_params import SamplingParams
from rustllm.tokenizer import Tokenizer

__all__ = ["CompletionState", "logprobs_by_token"]


def logprobs_by_token(
    entries: Sequence[tuple[int, float, int]], tokenizer: Tokenizer | None
) -> dict[int, Logprob]:
    """The engine's (token id, logprob, rank) at one position, as users get them."""
    return {
        token_id: Logprob(
            logprob, rank, None if tokenizer is None else tokenizer.decode_token(token_id)
        )
        for token_id, logprob, rank in entries
    }


class CompletionState:
    """Collects what the engine produces for one of a request's `n` sequences.

    Args:
        index: Which of them.
        tokenizer: `None` where no text is wanted.
        prompt_token_ids: What comes before the first token.
        params: The request's parameters.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer | None,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
    ) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.ended_in_engine = False
        """Whether the engine has ended it: a stop string ends it here only."""
        self.num_preemptions = 0
        self._stop_reason: int | str | None = None
        self._tokenizer = tokenizer
        self._detokenizer = (
            None
            if tokenizer is None
            else IncrementalDetokenizer(tokenizer, prompt_token_ids, params)
        )
        self._token_ids: list[int] = []
        self._with_logprobs = params.logprobs is not None
        self._logprobs: SampleLogprobs = []
        self._cumulative_logprob = 0.0
        self._num_taken = 0

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._token_ids)

    def update(self, output: EngineOutput) -> None:
        """Adds what a step produced; nothing is added to a completion that has ended.

        The engine knows no text and runs on until it is told to stop, so tokens behind the one that
        completes a stop string are left out here.
        """
        self.ended_in_engine = output.finish_reason is not None
        if self.finish_reason is not None:
            return
        self.num_preemptions = output.num_preemptions
        self.finish_reason, self._stop_reason = output.finish_reason, output.stop_reason
        token_ids = output.token_ids
        if self._detokenizer is not None:
            match = self._detokenizer.update(
                token_ids, stop_token_last=output.finish_reason == "stop"
            )
            if match is not None:
                token_ids = token_ids[: match.num_tokens - len(self._token_ids)]
                self.finish_reason, self._stop_reason = "stop", match.stop
            if self.finish_reason is not None:
                self._detokenizer.end()
        self._token_ids.extend(token_ids)
        if self._with_logprobs and output.logprobs:
            self._add_logprobs(output.logprobs[: len(token_ids)])

    def everything(self) -> CompletionOutput:
        """The completion so far."""
        return self._output(
            "" if self._detokenizer is None else self._detokenizer.text,
            list(self._token_ids),
            list(self._logprobs),
        )

    def take_delta(self) -> CompletionOutput:
        """What has come since the last call."""
        begin, self._num_taken = self._num_taken, len(self._token_ids)
        return self._output(
            "" if self._detokenizer is None else self._detokenizer.take_delta(),
            self._token_ids[begin:],
            self._logprobs[begin:],
        )

    def _output(
        self, text: str, token_ids: list[int], logprobs: SampleLogprobs
    ) -> CompletionOutput:
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=token_ids,
            cumulative_logprob=self._cumulative_logprob if self._with_logprobs else None,
            logprobs=logprobs if self._with_logprobs else None,
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason if self.finish_reason is not None else None,
        )

    def _add_logprobs(self, positions: Sequence[Sequence[tuple[int, float, int]]]) -> None:
        for entries in positions:
            self._logprobs.append(logprobs_by_token(entries, self._tokenizer))
            self._cumulative_logprob += entries[0][1]
