"""`POST /v1/chat/completions`: answer a conversation."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from rustllm.chat_messages import prepare_messages
from rustllm.outputs import CompletionOutput, RequestOutput
from rustllm.server.errors import HttpError, as_http_error, bad_request, request_id_of
from rustllm.server.logprobs import TokenText, chat_logprobs, prompt_logprobs_list
from rustllm.server.options import ServerOptions
from rustllm.server.protocol import ChatCompletionRequest, TokenizeRequest
from rustllm.server.responses import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatResponse,
)
from rustllm.server.served_model import Call, Prompt, ServedModel, UsageCounter
from rustllm.server.streaming import (
    DONE,
    error_event,
    event,
    final_outputs,
    json_response,
    start_stream,
    unless_client_leaves,
)

OBJECT = "chat.completion"
CHUNK_OBJECT = "chat.completion.chunk"


@dataclass(frozen=True)
class _Job:
    """A request on its way: what was asked, and the generation that answers it."""

    body: ChatCompletionRequest
    call: Call
    prompt: Prompt
    generation: AsyncGenerator[RequestOutput, None]
    usage: UsageCounter
    token_text: TokenText
    role: str
    echoed: str
    """Text of the final message, to be repeated before each answer."""
    request_id: str


async def render_chat_prompt(
    model: ServedModel,
    options: ServerOptions,
    body: ChatCompletionRequest | TokenizeRequest,
    *,
    tools: list[dict[str, Any]] | None = None,
    chat_template: str | None = None,
) -> Prompt:
    """The conversation as the chat template writes it, and its tokens."""
    text = model.engine.processor.render_chat(
        body.messages or [],
        chat_template=chat_template,
        tools=tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template_kwargs={
            **options.default_chat_template_kwargs,
            **_template_kwargs(body.chat_template_kwargs),
        },
    )
    [token_ids] = await model.encode([text], add_special_tokens=bool(body.add_special_tokens))
    return Prompt(text, token_ids)


def _template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The template's own variables; the arguments of the renderer are not among them."""
    reserved = {"chat_template", "tools", "documents"}
    reserved |= {"messages", "add_generation_prompt", "continue_final_message"}
    if found := sorted(reserved & kwargs.keys()):
        raise bad_request(
            f"chat_template_kwargs cannot set {', '.join(found)}", param="chat_template_kwargs"
        )
    return kwargs


class ChatRoute:
    """The endpoint and its dependencies."""

    def __init__(self, model: ServedModel, options: ServerOptions) -> None:
        self.model = model
        self.options = options

    async def create(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answers one request, streaming or not."""
        job = await self._prepare(body, request)
        if body.stream:
            return await start_stream(request, self._events(job))
        result = await unless_client_leaves(request.receive, self._collect(job))
        return json_response(result)

    async def _prepare(self, body: ChatCompletionRequest, request: Request) -> _Job:
        call = self.model.start("chatcmpl", body, request)
        prompt = await self._prompt(body)
        requested = body.max_completion_tokens
        requested = body.max_tokens if requested is None else requested
        params = self.model.sampling_params(
            body,
            max_tokens=self.model.max_tokens(prompt, requested, None),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            prompt_logprobs=body.prompt_logprobs,
        )
        last = body.messages[-1]
        role = self.options.response_role if body.add_generation_prompt else last["role"]
        echoed = ""
        if body.echo and last["role"] == role:
            echoed = prepare_messages([last])[0].get("content") or ""
        as_ids = body.return_tokens_as_token_ids
        return _Job(
            body=body,
            call=call,
            prompt=prompt,
            generation=self.model.generate(prompt, params, body, request, call),
            usage=UsageCounter([prompt], with_details=self.options.enable_prompt_tokens_details),
            token_text=self.model.token_text(
                self.options.return_tokens_as_token_ids if as_ids is None else as_ids
            ),
            role=role,
            echoed=echoed,
            request_id=request_id_of(request),
        )

    async def _prompt(self, body: ChatCompletionRequest) -> Prompt:
        if body.chat_template is not None and not self.options.trust_request_chat_template:
            raise bad_request(
                "Requests may not bring a `chat_template` unless the server runs with "
                "--trust-request-chat-template.",
                param="chat_template",
            )
        prompt = await render_chat_prompt(
            self.model, self.options, body, tools=body.tools, chat_template=body.chat_template
        )
        requested = body.max_completion_tokens or body.max_tokens or 1
        kept = self.model.truncate(prompt.token_ids, body.truncate_prompt_tokens, requested)
        return Prompt(prompt.text, kept)

    async def _collect(self, job: _Job) -> ChatResponse:
        [result] = await final_outputs([job.generation])
        job.usage.add(0, result)
        response = ChatResponse(
            id=job.call.id,
            object=OBJECT,
            created=job.call.created,
            model=job.call.model,
            choices=[_choice(job, output) for output in result.outputs],
            usage=job.usage.usage(),
        )
        if job.body.prompt_logprobs is not None:
            response.prompt_logprobs = prompt_logprobs_list(result.prompt_logprobs)
        if job.body.return_token_ids:
            response.prompt_token_ids = job.prompt.token_ids
        return response

    async def _events(self, job: _Job) -> AsyncGenerator[bytes, None]:
        stream_options = job.body.stream_options
        include_usage = bool(stream_options and stream_options.include_usage)
        continuous = include_usage and bool(
            stream_options and stream_options.continuous_usage_stats
        )
        opened = False
        try:
            async with aclosing(job.generation) as outputs:
                async for result in outputs:
                    job.usage.add(0, result)
                    if not opened:
                        opened = True
                        for chunk in _opening(job):
                            yield event(_with_usage(job, chunk, include_usage, continuous))
                    for output in result.outputs:
                        delta = _delta(job, output)
                        if delta is not None:
                            chunk = _chunk(job, [delta])
                            yield event(_with_usage(job, chunk, include_usage, continuous))
            if include_usage or self.options.enable_force_include_usage:
                yield event(_with_usage(job, _chunk(job, []), True, True))
        except Exception as error:
            if not opened:
                raise
            yield error_event(as_http_error(error, job.request_id))
        yield DONE


def _opening(job: _Job) -> list[ChatChunk]:
    """The first chunk of each choice, which says who speaks."""
    chunks = []
    for index in range(job.body.n):
        delta = AssistantMessage(role=job.role, content=job.echoed)
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)
        chunk = _chunk(job, [choice])
        if job.body.return_token_ids:
            chunk.prompt_token_ids = job.prompt.token_ids
        chunks.append(chunk)
    return chunks


def _delta(job: _Job, output: CompletionOutput) -> ChatChunkChoice | None:
    """What `output` adds to its choice; `None` when there is nothing to show yet."""
    logprobs = _logprobs(job, output)
    has_details = logprobs is not None or job.body.return_token_ids
    if not (output.text or output.finish_reason or (output.token_ids and has_details)):
        return None
    delta = AssistantMessage(content=output.text) if output.text else AssistantMessage()
    choice = ChatChunkChoice(
        index=output.index, delta=delta, logprobs=logprobs, finish_reason=output.finish_reason
    )
    if output.finish_reason is not None:
        choice.stop_reason = output.stop_reason
    if job.body.return_token_ids:
        choice.token_ids = list(output.token_ids)
    return choice


def _choice(job: _Job, output: CompletionOutput) -> ChatChoice:
    choice = ChatChoice(
        index=output.index,
        message=AssistantMessage(role=job.role, content=job.echoed + output.text),
        logprobs=_logprobs(job, output),
        finish_reason=output.finish_reason,
        stop_reason=output.stop_reason,
    )
    if job.body.return_token_ids:
        choice.token_ids = list(output.token_ids)
    return choice


def _logprobs(job: _Job, output: CompletionOutput) -> ChatLogprobs | None:
    if output.finish_reason == "error":
        raise HttpError(500, "The generation failed.", type="server_error")
    if not job.body.logprobs:
        return None
    return chat_logprobs(
        output.token_ids, output.logprobs or [], job.token_text, job.body.top_logprobs or 0
    )


def _chunk(job: _Job, choices: list[ChatChunkChoice]) -> ChatChunk:
    return ChatChunk(
        id=job.call.id,
        object=CHUNK_OBJECT,
        created=job.call.created,
        model=job.call.model,
        choices=choices,
    )


def _with_usage(job: _Job, chunk: ChatChunk, include: bool, now: bool) -> ChatChunk:
    """`chunk` with its usage: `null` until the last one unless it is wanted `now`."""
    if include:
        chunk.usage = job.usage.usage() if now else None
    return chunk
