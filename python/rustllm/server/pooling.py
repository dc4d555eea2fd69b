"""`POST /v1/embeddings`, `/classify` and `/pooling`: what a model makes of texts."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import Request
from starlette.responses import Response

from rustllm.inputs import ParsedPrompt
from rustllm.pooling_outputs import PoolingOutput, PoolingRequestOutput
from rustllm.pooling_params import PoolingParams
from rustllm.pooling_processor import PoolingRequest
from rustllm.server.errors import bad_request
from rustllm.server.pooling_protocol import (
    ClassificationData,
    ClassificationRequest,
    EmbeddingData,
    EmbeddingRequest,
    InputBody,
    PoolingData,
    PoolingRequestBody,
    PoolingResponse,
    VectorBody,
)
from rustllm.server.responses import Usage
from rustllm.server.served_model import Call, ServedModel, off_the_loop
from rustllm.server.streaming import unless_client_leaves

MAX_ELEMENTS = 1 << 24
"""Numbers in an answer that has a row for each token."""

Outputs = list[PoolingRequestOutput[PoolingOutput]]


class PoolingRoutes:
    """The endpoints and the model behind them."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self._labels = model.engine.model.labels

    async def embeddings(self, body: EmbeddingRequest, request: Request) -> Response:
        """A vector of each input, as OpenAI's API has it."""
        require_task(self.model, "embed", "Embeddings")
        call, outputs = await self._run(body, request, "embd", "embed", _vector_params(body))
        data = [
            EmbeddingData(index=index, embedding=_encoded(output.outputs.data, body))
            for index, output in enumerate(outputs)
        ]
        return _answer(call, data, outputs)

    async def classify(self, body: ClassificationRequest, request: Request) -> Response:
        """The probability of each class for each input."""
        require_task(self.model, "classify", "Classification")
        params = PoolingParams(use_activation=body.use_activation)
        call, outputs = await self._run(body, request, "classify", "classify", params)
        return _answer(call, [self._classes(*item) for item in enumerate(outputs)], outputs)

    async def pooling(self, body: PoolingRequestBody, request: Request) -> Response:
        """The array that a task makes of each input; by default the model's first task."""
        task = body.task or self.model.engine.model_info.supported_tasks[0]
        require_task(self.model, task, "Pooling")
        call, outputs = await self._run(body, request, "pool", task, _vector_params(body))
        data = [
            PoolingData(index=index, data=_encoded(output.outputs.data, body))
            for index, output in enumerate(outputs)
        ]
        return _answer(call, data, outputs)

    async def _run(
        self, body: InputBody, request: Request, kind: str, task: str, params: PoolingParams
    ) -> tuple[Call, Outputs]:
        call = self.model.name_call(kind, body, request)
        processor = self.model.engine.pooling_processor
        prompts = [
            ParsedPrompt(item, None) if isinstance(item, str) else ParsedPrompt(None, item)
            for item in body.input
        ]
        prefix = ""
        if task in ("embed", "token_embed") and isinstance(body, VectorBody):
            prefix = processor.templates.prefix(body.prompt_name, body.prompt)
        requests = await off_the_loop(
            sum(len(item) for item in body.input),
            processor.process,
            prompts,
            [params] * len(prompts),
            task,
            tokenization_kwargs=body.tokenization_kwargs(),
            prefix=prefix,
        )
        if task.startswith("token_"):
            self._check_size(requests)
        pooled = self.model.pool(requests, body, request, call)
        return call, await unless_client_leaves(request.receive, pooled)

    def _check_size(self, requests: Sequence[PoolingRequest]) -> None:
        """Keeps answers with a row for each token in bounds: a short request may ask for a lot."""
        info = self.model.engine.model_info
        tokens = sum(len(item.prompt_token_ids) for item in requests)
        width = max(info.embedding_size or 1, info.num_labels or 1)
        if tokens * width > MAX_ELEMENTS:
            raise bad_request(
                f"A request may ask for at most {MAX_ELEMENTS // width} rows, its input has "
                f"{tokens} tokens: send fewer texts at once.",
                param="input",
            )

    def _classes(
        self, index: int, output: PoolingRequestOutput[PoolingOutput]
    ) -> ClassificationData:
        probs = output.outputs.data
        label = self._labels[int(probs.argmax())]
        return ClassificationData(
            index=index, label=label, probs=probs.tolist(), num_classes=len(probs)
        )


def require_task(model: ServedModel, task: str, api: str) -> None:
    """Refuses a route that the model has no layers for.

    Raises:
        HttpError: 400.
    """
    supported, is_pooling = model.engine.model_info.supported_tasks, model.engine.model.is_pooling
    if task not in supported or not is_pooling:
        instead = f"it is served for {', '.join(supported)}"
        if not is_pooling:
            instead = "it generates text; `--runner pooling` serves a model's embeddings"
        what = f" with the task {task!r}" if api == "Pooling" else ""
        message = f"The model does not support the {api} API{what}: {instead}."
        raise bad_request(message, param="task" if what else "model")


def usage_of(outputs: Outputs) -> Usage:
    """The tokens that were read."""
    tokens = sum(len(output.prompt_token_ids) for output in outputs)
    return Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens)


def _vector_params(body: VectorBody) -> PoolingParams:
    return PoolingParams(
        use_activation=body.use_activation, dimensions=body.dimensions, normalize=body.normalize
    )


def _encoded(array: npt.NDArray[np.float32], body: VectorBody) -> Any:
    if body.encoding_format == "float":
        return array.tolist()
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _answer(call: Call, data: Any, outputs: Outputs) -> Response:
    response = PoolingResponse(
        id=call.id, created=call.created, model=call.model, data=data, usage=usage_of(outputs)
    )
    return Response(response.model_dump_json(exclude_none=True), media_type="application/json")
