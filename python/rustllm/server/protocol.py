"""Bodies of requests and answers: OpenAI's fields, and vLLM's beyond them.

A field that is known but not implemented is refused by name unless it holds its neutral value; an
unknown field is refused too. Nothing is ignored in silence. `null` means the same as leaving a
field out.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rustllm.server.errors import bad_request

MAX_PROMPTS = 1024
MAX_N = 128
MAX_SEQUENCES = 4096
"""Prompts times `n` in one request."""
MAX_STOP_STRINGS = 4
MAX_BAD_WORDS = 128
MAX_LISTED_TOKENS = 1 << 20
MAX_LOGIT_BIAS = 1024

_NOTHING: tuple[Any, ...] = ()

# Field: (values that change nothing and so are accepted, what to do instead).
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "best_of": ((1,), "use `n`"),
    "use_beam_search": ((False,), "beam search is not implemented"),
    "length_penalty": ((1.0,), "beam search is not implemented"),
    "response_format": (({"type": "text"},), "only the type `text` is available"),
    "structured_outputs": (_NOTHING, "structured output is not implemented"),
    "guided_json": (_NOTHING, "structured output is not implemented"),
    "guided_regex": (_NOTHING, "structured output is not implemented"),
    "guided_choice": (_NOTHING, "structured output is not implemented"),
    "guided_grammar": (_NOTHING, "structured output is not implemented"),
    "logits_processors": (([],), "requests cannot bring code"),
    "logit_processors": (([],), "requests cannot bring code"),
    "logprob_token_ids": (([],), "use `logprobs`"),
    "prompt_embeds": (_NOTHING, "send text or token ids"),
    "truncation_side": (("left",), "prompts are truncated on the left"),
    "stream_interval": ((1,), "every token is streamed"),
    "repetition_detection": (_NOTHING, "it is not implemented"),
    "thinking_token_budget": (_NOTHING, "it is not implemented"),
    "watermarking": ((False,), "it is not implemented"),
    "session_id": (_NOTHING, "it is not implemented"),
    "kv_transfer_params": (_NOTHING, "it is not implemented"),
    "ec_transfer_params": (_NOTHING, "it is not implemented"),
    "vllm_xargs": (({},), "it is not implemented"),
}
_UNSUPPORTED_IN_COMPLETIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "suffix": (("",), "text is only continued at its end"),
}
_UNSUPPORTED_IN_CHAT: dict[str, tuple[tuple[Any, ...], str]] = {
    "functions": (([],), "tool calls are not implemented"),
    "function_call": (("none",), "tool calls are not implemented"),
    "audio": (_NOTHING, "answers are text"),
    "modalities": ((["text"],), "answers are text"),
    "prediction": (_NOTHING, "it is not implemented"),
    "web_search_options": (_NOTHING, "it is not implemented"),
    "verbosity": (_NOTHING, "it is not implemented"),
    "reasoning_effort": (_NOTHING, "give the template its own variables in `chat_template_kwargs`"),
    "include_reasoning": ((True,), "reasoning is not told apart from the answer"),
    "documents": (([],), "give the template its own variables in `chat_template_kwargs`"),
    "media_io_kwargs": (({},), "messages are text"),
    "mm_processor_kwargs": (({},), "messages are text"),
}


def refuse_unsupported(
    data: Mapping[str, Any], unsupported: Mapping[str, tuple[tuple[Any, ...], str]]
) -> dict[str, Any]:
    """`data` without nulls and neutral values of what is not implemented."""
    kept = {}
    for name, value in data.items():
        if value is None:
            continue
        if name in unsupported:
            neutral, instead = unsupported[name]
            if not any(type(value) is type(ok) and value == ok for ok in neutral):
                raise bad_request(f"`{name}` is not supported: {instead}.", param=name)
        else:
            kept[name] = value
    return kept


def _stop_strings(value: Any) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        raise ValueError("stop must be a string or a list of strings")
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"stop may hold at most {MAX_STOP_STRINGS} strings, got {len(strings)}")
    return strings


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def prompt_list(name: str, limit: int) -> Callable[[Any], list[str] | list[list[int]]]:
    """Reads the field `name`, one prompt or at most `limit`, as a list of prompts of one kind."""

    def read(value: Any) -> list[str] | list[list[int]]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and value:
            if _is_token_list(value):
                return _check_token_ids(name, [value])
            if len(value) > limit:
                raise ValueError(f"{name} may hold at most {limit} prompts, got {len(value)}")
            if all(isinstance(item, str) for item in value):
                return value
            if all(_is_token_list(item) for item in value):
                return _check_token_ids(name, value)
        raise ValueError(
            f"{name} must be a string, a list of token ids, a list of strings or a list of lists "
            "of token ids, and not empty"
        )

    return read


def _check_token_ids(name: str, prompts: list[list[int]]) -> list[list[int]]:
    for token_ids in prompts:
        if not token_ids:
            raise ValueError(f"{name} must not be an empty list")
        if min(token_ids) < 0 or max(token_ids) >= 1 << 31:
            raise ValueError(f"{name} holds a number that is no token id")
    return prompts


StopStrings = Annotated[list[str], BeforeValidator(_stop_strings)]
Prompts = Annotated[
    list[str] | list[list[int]], BeforeValidator(prompt_list("prompt", MAX_PROMPTS))
]
TokenIds = Annotated[list[int], Field(max_length=MAX_LISTED_TOKENS)]
CacheSalt = Annotated[str, Field(min_length=1, max_length=1024)]


class StreamOptions(BaseModel):
    """What a stream says besides the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None
    """OpenAI's padding against traffic analysis; only `false` is available."""

    @model_validator(mode="after")
    def _no_obfuscation(self) -> "StreamOptions":
        if self.include_obfuscation:
            raise bad_request("`include_obfuscation` is not supported.", param="stream_options")
        return self


class GenerationRequest(BaseModel):
    """What `/v1/completions` and `/v1/chat/completions` have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    unsupported: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = _UNSUPPORTED

    model: str | None = None
    n: Annotated[int, Field(le=MAX_N)] = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: StopStrings = []
    stop_token_ids: TokenIds = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[str], Field(max_length=MAX_BAD_WORDS)] = []
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    echo: bool = False
    priority: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] = 0
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@/+=-]{1,128}$")] | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool | None = None
    cache_salt: CacheSalt | None = None

    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_supported(cls, data: Any) -> Any:
        return refuse_unsupported(data, cls.unsupported) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise bad_request(
                "`stream_options` can only be given with `stream: true`.", param="stream_options"
            )
        if self.prompt_logprobs is not None and self.stream:
            raise bad_request(
                "`prompt_logprobs` are not available with `stream: true`.", param="prompt_logprobs"
            )
        if self.truncate_prompt_tokens == 0:
            raise bad_request(
                "`truncate_prompt_tokens` must be at least 1, or -1 for the model's limit.",
                param="truncate_prompt_tokens",
            )
        return self


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {
        **_UNSUPPORTED,
        **_UNSUPPORTED_IN_COMPLETIONS,
    }

    prompt: Prompts
    logprobs: int | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _not_too_many(self) -> "CompletionRequest":
        count = len(self.prompt) * self.n
        if count > MAX_SEQUENCES:
            raise bad_request(
                f"A request may generate at most {MAX_SEQUENCES} completions, "
                f"got {len(self.prompt)} prompts with n={self.n}.",
                param="n",
            )
        return self


def _messages(value: Any) -> Any:
    """Messages without their nulls; what their content may be is the tokenizer's to say."""
    if not isinstance(value, list):
        return value
    for message in value:
        for name in ("function_call", "audio"):
            if isinstance(message, dict) and message.get(name):
                raise bad_request(f"`{name}` in messages is not supported.", param="messages")
    return [
        {key: item for key, item in message.items() if item is not None}
        if isinstance(message, dict)
        else message
        for message in value
    ]


Messages = Annotated[list[dict[str, Any]], Field(min_length=1), BeforeValidator(_messages)]


class ChatCompletionRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {
        **_UNSUPPORTED,
        **_UNSUPPORTED_IN_CHAT,
    }

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent_chat(self) -> "ChatCompletionRequest":
        if self.tool_choice not in (None, "none") or (self.tools and self.tool_choice is None):
            raise bad_request(
                'Tool calls are not supported: `tools` may only come with `tool_choice: "none"`.',
                param="tool_choice" if self.tool_choice is not None else "tools",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise bad_request(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to true.",
                param="continue_final_message",
            )
        if self.top_logprobs and not self.logprobs:
            raise bad_request(
                "`top_logprobs` can only be given with `logprobs: true`.", param="top_logprobs"
            )
        return self


class TokenizeRequest(BaseModel):
    """Body of `POST /tokenize`: a text, or messages for the chat template."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool = False
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_input(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise bad_request("Give either `prompt` or `messages`.", param="prompt")
        return self


class DetokenizeRequest(BaseModel):
    """Body of `POST /detokenize`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    tokens: TokenIds
