"""`POST /score` and `/rerank`: how well texts go together."""

from fastapi import Request
from starlette.responses import Response

from rustllm.encoding import TextPair
from rustllm.errors import ValidationError
from rustllm.pooling_outputs import ScoringRequestOutput
from rustllm.pooling_params import PoolingParams
from rustllm.scoring import Scorer, pair_texts
from rustllm.server.errors import bad_request
from rustllm.server.pooling import Outputs, usage_of
from rustllm.server.pooling_protocol import (
    PoolingBody,
    PoolingResponse,
    RerankDocument,
    RerankRequest,
    RerankResponse,
    RerankResult,
    RerankUsage,
    ScoreData,
    ScoreRequest,
)
from rustllm.server.served_model import Call, ServedModel, off_the_loop
from rustllm.server.streaming import json_response, unless_client_leaves


class ScoringRoutes:
    """The endpoints and the model behind them."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    async def score(self, body: ScoreRequest, request: Request) -> Response:
        """A score for each pair of texts."""
        scorer = self._scorer("Scoring")
        pairs = pair_texts(*body.sides)
        call, scores, outputs = await self._run(scorer, pairs, body, request, "score")
        data = [
            ScoreData(index=index, object="score", score=item.outputs.score)
            for index, item in enumerate(scores)
        ]
        usage = usage_of(outputs)
        response = PoolingResponse(
            id=call.id,
            object="list",
            created=call.created,
            model=call.model,
            data=data,
            usage=usage,
        )
        return Response(response.model_dump_json(exclude_none=True), media_type="application/json")

    async def rerank(self, body: RerankRequest, request: Request) -> Response:
        """The documents in order of their scores with the query."""
        scorer = self._scorer("Rerank")
        pairs = pair_texts(body.query, body.documents)
        call, scores, outputs = await self._run(scorer, pairs, body, request, "rerank")
        ranked = sorted(enumerate(scores), key=lambda item: -item[1].outputs.score)
        usage = usage_of(outputs)
        results = []
        for index, item in ranked[: body.top_n or None]:
            result = RerankResult(index=index, relevance_score=item.outputs.score)
            if body.return_documents:
                result.document = RerankDocument(text=body.documents[index])
            results.append(result)
        tokens = RerankUsage(prompt_tokens=usage.prompt_tokens, total_tokens=usage.total_tokens)
        return json_response(
            RerankResponse(id=call.id, model=call.model, usage=tokens, results=results)
        )

    def _scorer(self, api: str) -> Scorer:
        engine = self.model.engine
        try:
            return Scorer(engine.model, engine.pooling_processor)
        except ValidationError as error:
            message = f"The model does not support the {api} API: {error}"
            raise bad_request(message, param="model") from error

    async def _run(
        self,
        scorer: Scorer,
        pairs: list[TextPair],
        body: PoolingBody,
        request: Request,
        kind: str,
    ) -> tuple[Call, list[ScoringRequestOutput], Outputs]:
        call = self.model.name_call(kind, body, request)
        requests = await off_the_loop(
            sum(len(pair.text) + len(pair.text_pair) for pair in pairs),
            scorer.requests,
            pairs,
            PoolingParams(use_activation=body.use_activation),
            tokenization_kwargs=body.tokenization_kwargs(),
        )
        pooled = self.model.pool(requests, body, request, call)
        outputs = await unless_client_leaves(request.receive, pooled)
        return call, scorer.scores(pairs, outputs), outputs
