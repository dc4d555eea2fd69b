"""Bodies of answers. A field that was never set is left out of the JSON; one set to `None` is
`null`.
"""

from pydantic import BaseModel


class PromptTokensDetails(BaseModel):
    """Where prompt tokens came from."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens a request took and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class TokenLogprob(BaseModel):
    """A token's log probability and rank, as `prompt_logprobs` has them."""

    logprob: float
    rank: int | None
    decoded_token: str | None


PromptLogprobsList = list[dict[int, TokenLogprob] | None]


class CompletionLogprobs(BaseModel):
    """Log probabilities of `/v1/completions`: parallel lists, an entry for each token."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    """One text, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    prompt_logprobs: PromptLogprobsList | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    """Answer, or chunk of the answer, of `/v1/completions`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """The token that was chosen, and the likeliest ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities of `/v1/chat/completions`: an entry for each token."""

    content: list[ChatTokenLogprob]


class AssistantMessage(BaseModel):
    """The answer; in a chunk, what it adds."""

    role: str | None = None
    content: str | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None = None


class ChatChunkChoice(BaseModel):
    """What a chunk adds to one answer."""

    index: int
    delta: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatResponse(BaseModel):
    """Answer of `/v1/chat/completions`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobsList | None = None
    prompt_token_ids: list[int] | None = None


class ChatChunk(BaseModel):
    """Chunk of the answer of `/v1/chat/completions`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class ModelCard(BaseModel):
    """A model that can be asked for."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "rustllm"
    root: str
    parent: str | None = None
    max_model_len: int


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: str = "list"
    data: list[ModelCard]


class TokenizeResponse(BaseModel):
    """Answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(BaseModel):
    """Answer of `/detokenize`."""

    prompt: str
