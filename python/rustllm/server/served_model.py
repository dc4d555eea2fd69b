"""The model behind the routes: its names, its tokenizer, its limits, and the engine that runs
it.
"""

import asyncio
import functools
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request

from rustllm.async_engine import AsyncEngine
from rustllm.inputs import TokensPrompt
from rustllm.outputs import Logprob, RequestOutput
from rustllm.pooling_outputs import PoolingOutput, PoolingRequestOutput
from rustllm.pooling_processor import PoolingRequest
from rustllm.sampling_params import RequestOutputKind, SamplingParams
from rustllm.server.errors import HttpError, bad_request
from rustllm.server.logprobs import TokenText
from rustllm.server.pooling_protocol import PoolingBody
from rustllm.server.protocol import GenerationRequest
from rustllm.server.responses import ModelCard, PromptTokensDetails, Usage

logger = logging.getLogger("rustllm.server")

T = TypeVar("T")

_LONG_TEXT = 16_384
"""Characters from which a text is tokenized off the event loop."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_FROM_REQUEST_OR_MODEL = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_FROM_REQUEST = (
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt; `text` is `None` when it came as token ids."""

    text: str | None
    token_ids: list[int]


@dataclass(frozen=True)
class Call:
    """One request to generate: how its answer is named."""

    id: str
    created: int
    model: str


class ServedModel:
    """An engine and what the routes must know of it.

    Args:
        engine: The running engine.
        names: Names clients may ask for; the first is told in answers.
        log_requests: Whether to log what is generated for whom, without any text.
    """

    def __init__(
        self, engine: AsyncEngine, names: Sequence[str], *, log_requests: bool = False
    ) -> None:
        self.engine = engine
        self.names = list(names)
        self.tokenizer = engine.get_tokenizer()
        self.max_model_len = engine.max_model_len
        self.defaults = engine.default_sampling_fields
        self.created = int(time.time())
        self._log_requests = log_requests
        self._running: set[str] = set()

    def check_name(self, name: str | None) -> str:
        """The name a request is answered under; asking for none means the first.

        Raises:
            HttpError: 404, there is no such model.
        """
        if name is None:
            return self.names[0]
        if name not in self.names:
            shown = name if len(name) <= 128 else name[:128] + "..."
            message = f"The model `{shown}` does not exist."
            raise HttpError(404, message, param="model", code="model_not_found")
        return name

    def cards(self) -> list[ModelCard]:
        """The model under each of its names."""
        return [
            ModelCard(
                id=name,
                created=self.created,
                root=self.names[0],
                max_model_len=self.max_model_len,
            )
            for name in self.names
        ]

    def start(self, kind: str, body: GenerationRequest, request: Request) -> Call:
        """Checks that this model generates, and names the answer.

        Raises:
            HttpError: 400, the model is pooled; 404, there is no such model.
        """
        if self.engine.model.is_pooling:
            api = {"cmpl": "Completions", "chatcmpl": "Chat Completions"}[kind]
            tasks = ", ".join(self.engine.model_info.supported_tasks)
            raise bad_request(
                f"The model does not support the {api} API: it is served for {tasks}.",
                param="model",
            )
        return self.name_call(kind, body, request)

    def name_call(self, kind: str, body: GenerationRequest | PoolingBody, request: Request) -> Call:
        """Checks the model's name and names the answer: by the client's id if it brought one."""
        given = request.state.client_request_id or body.request_id
        return Call(
            id=f"{kind}-{given or uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.check_name(body.model),
        )

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Token ids of each text; long ones do not hold up the event loop.

        Raises:
            HttpError: 400, a text that JSON can spell and Unicode does not have.
        """
        if any(_LONE_SURROGATE.search(text) for text in texts):
            raise bad_request("The prompt holds half a surrogate pair.", param="prompt")
        encode = functools.partial(
            self.tokenizer.encode_batch, texts, add_special_tokens=add_special_tokens
        )
        return await off_the_loop(sum(map(len, texts)), encode)

    def truncate(self, token_ids: list[int], limit: int | None, max_tokens: int) -> list[int]:
        """The last `limit` tokens; -1 keeps what leaves room for `max_tokens` more."""
        if limit is None:
            return token_ids
        if limit > self.max_model_len:
            raise bad_request(
                f"truncate_prompt_tokens must be at most {self.max_model_len}, got {limit}",
                param="truncate_prompt_tokens",
            )
        return token_ids[-(limit if limit > 0 else max(self.max_model_len - max_tokens, 1)) :]

    def max_tokens(self, prompt: Prompt, requested: int | None, default: int | None) -> int:
        """Tokens to generate at most after `prompt`.

        Args:
            prompt: The prompt.
            requested: What the request says.
            default: What it means when the request says nothing; `None` for all that fit.

        Raises:
            HttpError: 400, the prompt alone or together with `requested` does not fit.
        """
        length = len(prompt.token_ids)
        room = self.max_model_len - length
        if room < max(requested or 1, 1):
            asked = f"you requested {requested} output tokens and " if requested else ""
            raise bad_request(
                f"This model's maximum context length is {self.max_model_len} tokens. However, "
                f"{asked}your prompt contains {length} tokens. Please reduce the length of the "
                "prompt or the number of requested output tokens.",
                param="prompt",
                code="context_length_exceeded",
            )
        if requested is not None:
            return requested
        limits = (room, default, self.defaults.get("max_tokens"))
        return min(limit for limit in limits if limit is not None)

    def sampling_params(
        self,
        body: GenerationRequest,
        *,
        max_tokens: int,
        logprobs: int | None,
        prompt_logprobs: int | None,
    ) -> SamplingParams:
        """The request's fields as sampling parameters; what it leaves open is the model's own
        default.
        """
        values: dict[str, Any] = {name: getattr(body, name) for name in _FROM_REQUEST}
        for name in _FROM_REQUEST_OR_MODEL:
            value = getattr(body, name)
            values[name] = self.defaults.get(name) if value is None else value
        return SamplingParams.from_optional(
            **values,
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            output_kind=RequestOutputKind.DELTA if body.stream else RequestOutputKind.FINAL_ONLY,
        )

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        body: GenerationRequest,
        request: Request,
        call: Call,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Starts one prompt's generation once it is iterated; closing it aborts it.

        The engine's id for it is the answer's plus random digits: clients may reuse their ids.
        """
        inputs: TokensPrompt = {"prompt_token_ids": prompt.token_ids}
        salt = _cache_salt(request, body.cache_salt)
        if salt is not None:
            inputs["cache_salt"] = salt
        engine_id = f"{call.id}-{uuid.uuid4().hex[:12]}"
        if self._log_requests:
            size = len(prompt.token_ids)
            logger.info("%s: %d prompt tokens, max_tokens=%s", engine_id, size, params.max_tokens)
        self._running.add(engine_id)
        try:
            outputs = self.engine.generate(inputs, params, engine_id, priority=body.priority)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        finally:
            self._running.discard(engine_id)

    async def pool(
        self,
        requests: Sequence[PoolingRequest],
        body: PoolingBody,
        request: Request,
        call: Call,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """Runs the pooling requests of one answer, with its salt; cancelling it aborts them.

        Raises:
            HttpError: 500, the model's output for one of them is not finite.
        """
        salt = _cache_salt(request, body.cache_salt)
        salted = [replace(item, cache_salt=salt) for item in requests]
        stem = f"{call.id}-{uuid.uuid4().hex[:12]}"
        ids = [f"{stem}-{number}" for number in range(len(requests))]
        if self._log_requests:
            size = sum(len(item.prompt_token_ids) for item in requests)
            logger.info("%s: %d prompts, %d tokens", stem, len(ids), size)
        self._running.update(ids)
        try:
            outputs = await self.engine.pool(salted, ids, priority=body.priority)
        finally:
            self._running.difference_update(ids)
        for number, output in enumerate(outputs):
            if output.error is not None:
                message = f"Input {number} failed: {output.error}."
                raise HttpError(500, message, type="server_error")
        return outputs

    async def abort_all(self) -> int:
        """Ends all generations now; their answers end with the finish reason `abort`. Says how
        many there were.
        """
        running = list(self._running)
        await self.engine.abort(running)
        return len(running)

    def token_text(self, as_ids: bool) -> TokenText:
        """How tokens are written in log probabilities."""

        def text(token_id: int, logprob: Logprob | None) -> str:
            if as_ids:
                return f"token_id:{token_id}"
            if logprob is not None and logprob.decoded_token is not None:
                return logprob.decoded_token
            return self.tokenizer.decode_token(token_id)

        return text


async def off_the_loop(size: int, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Runs `work` here, or on a thread where there are many characters for it to read."""
    if size < _LONG_TEXT:
        return work(*arguments, **options)
    return await asyncio.to_thread(work, *arguments, **options)


def _cache_salt(request: Request, salt: str | None) -> str | None:
    """Keeps cached prefixes of different API keys apart, and within a key those of different
    salts.
    """
    tenant: str | None = getattr(request.state, "tenant", None)
    if tenant is None:
        return salt
    return hmac.new(tenant.encode(), (salt or "").encode(), hashlib.sha256).hexdigest()


class UsageCounter:
    """Counts the tokens of one answer."""

    def __init__(self, prompts: Sequence[Prompt], *, with_details: bool) -> None:
        self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        self._completion_tokens = 0
        self._cached: dict[int, int] = {}
        self._with_details = with_details

    def add(self, prompt_number: int, output: RequestOutput, *, generated: bool = True) -> None:
        """Takes in what an output adds; `generated=False` for tokens that are not handed out."""
        self._cached[prompt_number] = output.num_cached_tokens or 0
        if generated:
            self._completion_tokens += sum(len(item.token_ids) for item in output.outputs)

    def usage(self) -> Usage:
        """The tokens so far."""
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=self._prompt_tokens + self._completion_tokens,
        )
        if self._with_details:
            cached = sum(self._cached.values())
            usage.prompt_tokens_details = PromptTokensDetails(cached_tokens=cached)
        return usage
