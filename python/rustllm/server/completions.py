"""`POST /v1/completions`: continue a text."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request
from starlette.responses import Response

from rustllm.outputs import CompletionOutput, Logprob, PromptLogprobs, RequestOutput
from rustllm.sampling_params import SamplingParams
from rustllm.server.errors import HttpError, as_http_error, request_id_of
from rustllm.server.logprobs import TokenText, completion_logprobs, prompt_logprobs_list
from rustllm.server.options import ServerOptions
from rustllm.server.protocol import CompletionRequest
from rustllm.server.responses import CompletionChoice, CompletionLogprobs, CompletionResponse
from rustllm.server.served_model import Call, Prompt, ServedModel, UsageCounter
from rustllm.server.streaming import (
    DONE,
    error_event,
    event,
    final_outputs,
    json_response,
    merge,
    start_stream,
    unless_client_leaves,
)

OBJECT = "text_completion"
DEFAULT_MAX_TOKENS = 16


@dataclass(frozen=True)
class _Job:
    """A request on its way: what was asked, and the generations that answer it."""

    body: CompletionRequest
    call: Call
    prompts: Sequence[Prompt]
    generations: Sequence[AsyncGenerator[RequestOutput, None]]
    usage: UsageCounter
    token_text: TokenText
    request_id: str

    @property
    def echo_only(self) -> bool:
        """Whether only the prompt comes back; the engine still generates a token for it."""
        return self.body.echo and self.body.max_tokens == 0


class CompletionsRoute:
    """The endpoint and its dependencies."""

    def __init__(self, model: ServedModel, options: ServerOptions) -> None:
        self.model = model
        self.options = options

    async def create(self, body: CompletionRequest, request: Request) -> Response:
        """Answers one request, streaming or not."""
        job = await self._prepare(body, request)
        if body.stream:
            return await start_stream(request, self._events(job))
        result = await unless_client_leaves(request.receive, self._collect(job))
        return json_response(result)

    async def _prepare(self, body: CompletionRequest, request: Request) -> _Job:
        call = self.model.start("cmpl", body, request)
        prompts = await self._prompts(body)
        generations = [
            self.model.generate(prompt, self._params(body, prompt), body, request, call)
            for prompt in prompts
        ]
        as_ids = body.return_tokens_as_token_ids
        return _Job(
            body=body,
            call=call,
            prompts=prompts,
            generations=generations,
            usage=UsageCounter(prompts, with_details=self.options.enable_prompt_tokens_details),
            token_text=self.model.token_text(
                self.options.return_tokens_as_token_ids if as_ids is None else as_ids
            ),
            request_id=request_id_of(request),
        )

    async def _prompts(self, body: CompletionRequest) -> list[Prompt]:
        texts = [prompt for prompt in body.prompt if isinstance(prompt, str)]
        encoded = iter(await self.model.encode(texts, add_special_tokens=body.add_special_tokens))
        return [
            self._cut(body, prompt, next(encoded))
            if isinstance(prompt, str)
            else self._cut(body, None, prompt)
            for prompt in body.prompt
        ]

    def _cut(self, body: CompletionRequest, text: str | None, token_ids: list[int]) -> Prompt:
        """The prompt as it is computed; its text is only looked up where it comes back."""
        kept = self.model.truncate(token_ids, body.truncate_prompt_tokens, body.max_tokens or 1)
        if body.echo and (text is None or len(kept) < len(token_ids)):
            text = self.model.tokenizer.decode(kept)
        return Prompt(text, kept)

    def _params(self, body: CompletionRequest, prompt: Prompt) -> SamplingParams:
        requested = 1 if body.echo and body.max_tokens == 0 else body.max_tokens
        prompt_logprobs = body.prompt_logprobs
        if body.echo and body.logprobs is not None and prompt_logprobs is None:
            prompt_logprobs = body.logprobs
        return self.model.sampling_params(
            body,
            max_tokens=self.model.max_tokens(prompt, requested, DEFAULT_MAX_TOKENS),
            logprobs=body.logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    async def _collect(self, job: _Job) -> CompletionResponse:
        results = await final_outputs(job.generations)
        choices = []
        for number, (prompt, result) in enumerate(zip(job.prompts, results, strict=True)):
            job.usage.add(number, result, generated=not job.echo_only)
            for output in result.outputs:
                text, token_ids, logprobs = _visible(job, prompt, result.prompt_logprobs, output)
                choice = CompletionChoice(
                    index=number * job.body.n + output.index,
                    text=text,
                    logprobs=logprobs,
                    finish_reason=output.finish_reason,
                    stop_reason=output.stop_reason,
                )
                if job.body.prompt_logprobs is not None:
                    choice.prompt_logprobs = prompt_logprobs_list(result.prompt_logprobs)
                if job.body.return_token_ids:
                    choice.prompt_token_ids = prompt.token_ids
                    choice.token_ids = token_ids
                choices.append(choice)
        return _response(job, choices=choices, with_usage=True)

    async def _events(self, job: _Job) -> AsyncGenerator[bytes, None]:
        stream_options = job.body.stream_options
        include_usage = bool(stream_options and stream_options.include_usage)
        continuous = bool(stream_options and stream_options.continuous_usage_stats)
        sent = _Sent()
        try:
            async with aclosing(merge(job.generations)) as outputs:
                async for number, result in outputs:
                    job.usage.add(number, result, generated=not job.echo_only)
                    choices = _deltas(job, number, result, sent)
                    if choices:
                        yield event(
                            _response(
                                job,
                                choices=choices,
                                with_usage=include_usage and continuous,
                                null_usage=include_usage,
                            )
                        )
            if include_usage or self.options.enable_force_include_usage:
                yield event(_response(job, choices=[], with_usage=True))
        except Exception as error:
            if not sent.lengths:
                raise
            yield error_event(as_http_error(error, job.request_id))
        yield DONE


@dataclass
class _Sent:
    """What a stream keeps of what it has sent."""

    lengths: dict[int, int] = field(default_factory=dict)
    """Characters of each choice; choices not begun are not in it."""
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict)
    """Of each prompt; the engine gives them once, for all choices."""


def _deltas(job: _Job, number: int, result: RequestOutput, sent: _Sent) -> list[CompletionChoice]:
    """What `result` adds to the choices of prompt `number`."""
    if result.prompt_logprobs is not None:
        sent.prompt_logprobs[number] = result.prompt_logprobs
    choices = []
    for output in result.outputs:
        index = number * job.body.n + output.index
        offset = sent.lengths.get(index)
        if job.echo_only and offset is not None:
            continue
        text, token_ids, logprobs = _visible(
            job, job.prompts[number], sent.prompt_logprobs.get(number), output, offset
        )
        sent.lengths[index] = (offset or 0) + len(text)
        has_details = logprobs is not None or job.body.return_token_ids
        if not (text or output.finish_reason or (token_ids and has_details)):
            continue
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=logprobs,
            finish_reason=output.finish_reason,
            stop_reason=output.stop_reason,
        )
        if job.body.return_token_ids:
            choice.token_ids = token_ids
            if offset is None:
                choice.prompt_token_ids = job.prompts[number].token_ids
        choices.append(choice)
    return choices


def _visible(
    job: _Job,
    prompt: Prompt,
    prompt_logprobs: PromptLogprobs | None,
    output: CompletionOutput,
    offset: int | None = None,
) -> tuple[str, list[int], CompletionLogprobs | None]:
    """Text, tokens and log probabilities the client gets for `output`.

    Args:
        job: The request.
        prompt: The prompt; comes before the first output if it is to be echoed.
        prompt_logprobs: Its log probabilities, where they were asked for.
        output: A whole completion, or what was added to it.
        offset: Characters of the completion sent before; `None` for none, not even the prompt.
    """
    if output.finish_reason == "error":
        raise HttpError(500, "The generation failed.", type="server_error")
    text = "" if job.echo_only else output.text
    token_ids = [] if job.echo_only else list(output.token_ids)
    logprobs: list[dict[int, Logprob] | None] = []
    if not job.echo_only:
        logprobs.extend(output.logprobs or [])
    if job.body.echo and offset is None:
        text = (prompt.text or "") + text
        token_ids = [*prompt.token_ids, *token_ids]
        logprobs = [*(prompt_logprobs or []), *logprobs]
    if job.body.logprobs is None:
        return text, token_ids, None
    return text, token_ids, completion_logprobs(token_ids, logprobs, job.token_text, offset or 0)


def _response(
    job: _Job, *, choices: list[CompletionChoice], with_usage: bool, null_usage: bool = False
) -> CompletionResponse:
    response = CompletionResponse(
        id=job.call.id,
        object=OBJECT,
        created=job.call.created,
        model=job.call.model,
        choices=choices,
    )
    if with_usage:
        response.usage = job.usage.usage()
    elif null_usage:
        response.usage = None
    return response
