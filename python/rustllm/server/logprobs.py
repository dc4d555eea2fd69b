"""Log probabilities in OpenAI's two shapes."""

from collections.abc import Callable, Sequence

from rustllm.outputs import Logprob
from rustllm.server.responses import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    PromptLogprobsList,
    TokenLogprob,
    TopLogprob,
)

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have."""

TokenText = Callable[[int, Logprob | None], str]
"""How a token is written: its id, and its log probability where there is one."""


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[dict[int, Logprob] | None],
    token_text: TokenText,
    offset: int = 0,
) -> CompletionLogprobs:
    """The parallel lists of `/v1/completions`.

    Args:
        token_ids: The tokens.
        logprobs: For each of them, the chosen and the likeliest tokens; `None` for the first of a
            prompt.
        token_text: How a token is written.
        offset: Characters of text before the first token.
    """
    result = CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for token_id, candidates in zip(token_ids, logprobs, strict=True):
        chosen = candidates[token_id] if candidates is not None else None
        text = token_text(token_id, chosen)
        result.tokens.append(text)
        result.text_offset.append(offset)
        offset += len(text)
        if candidates is None or chosen is None:
            result.token_logprobs.append(None)
            result.top_logprobs.append(None)
            continue
        result.token_logprobs.append(_finite(chosen.logprob))
        top: dict[str, float] = {}
        for candidate_id, candidate in candidates.items():
            top.setdefault(token_text(candidate_id, candidate), _finite(candidate.logprob))
        result.top_logprobs.append(top)
    return result


def chat_logprobs(
    token_ids: Sequence[int],
    logprobs: Sequence[dict[int, Logprob]],
    token_text: TokenText,
    num_top: int,
) -> ChatLogprobs:
    """The list of `/v1/chat/completions`, with the `num_top` likeliest tokens at each place."""
    content = []
    for token_id, candidates in zip(token_ids, logprobs, strict=True):
        ranked = sorted(candidates.items(), key=lambda item: item[1].rank or 0)
        top = [
            _top_logprob(candidate_id, candidate, token_text)
            for candidate_id, candidate in ranked
            if (candidate.rank or 0) <= num_top
        ]
        chosen = _top_logprob(token_id, candidates[token_id], token_text)
        content.append(
            ChatTokenLogprob(
                token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top
            )
        )
    return ChatLogprobs(content=content)


def _top_logprob(token_id: int, logprob: Logprob, token_text: TokenText) -> TopLogprob:
    text = token_text(token_id, logprob)
    return TopLogprob(
        token=text, logprob=_finite(logprob.logprob), bytes=list(text.encode("utf-8", "replace"))
    )


def prompt_logprobs_list(
    logprobs: Sequence[dict[int, Logprob] | None] | None,
) -> PromptLogprobsList | None:
    """`prompt_logprobs` as vLLM writes them."""
    if logprobs is None:
        return None
    return [
        None
        if candidates is None
        else {
            token_id: TokenLogprob(
                logprob=_finite(item.logprob), rank=item.rank, decoded_token=item.decoded_token
            )
            for token_id, item in candidates.items()
        }
        for candidates in logprobs
    ]
