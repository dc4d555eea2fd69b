"""The application: which routes there are, and the layers every request passes."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import rustllm
from rustllm.server.chat import ChatRoute
from rustllm.server.completions import CompletionsRoute
from rustllm.server.errors import HttpError, install_error_handlers
from rustllm.server.options import ServerOptions
from rustllm.server.pooling import PoolingRoutes
from rustllm.server.responses import ModelCard, ModelList
from rustllm.server.scoring import ScoringRoutes
from rustllm.server.security import (
    ApiKeyMiddleware,
    ApiKeys,
    BodyLimitMiddleware,
    RequestIdMiddleware,
    RootPathMiddleware,
    public,
)
from rustllm.server.served_model import ServedModel
from rustllm.server.tokens import TokensRoute


def build_app(model: ServedModel, options: ServerOptions) -> FastAPI:
    """The ASGI application that serves `model`."""
    app = FastAPI(
        title="rustllm",
        version=rustllm.__version__,
        docs_url=None,
        redoc_url=None,
    )
    status = _StatusRoutes(model)
    completions, chat = CompletionsRoute(model, options), ChatRoute(model, options)
    tokens = TokensRoute(model, options)
    app.add_api_route("/health", status.health, methods=["GET"])
    app.add_api_route("/ping", status.ping, methods=["GET"], operation_id="ping")
    app.add_api_route("/ping", status.ping, methods=["POST"], operation_id="ping_by_post")
    app.add_api_route("/version", status.version, methods=["GET"])
    app.add_api_route("/v1/models", status.models, methods=["GET"])
    app.add_api_route("/v1/models/{model_id:path}", status.model_card, methods=["GET"])
    app.add_api_route("/v1/completions", completions.create, methods=["POST"])
    app.add_api_route("/v1/chat/completions", chat.create, methods=["POST"])
    _add_pooling_routes(app, model)
    app.add_api_route("/tokenize", tokens.tokenize, methods=["POST"])
    app.add_api_route("/detokenize", tokens.detokenize, methods=["POST"])
    install_error_handlers(app)
    _add_layers(app, options)
    return app


def _add_pooling_routes(app: FastAPI, model: ServedModel) -> None:
    pooling, scoring = PoolingRoutes(model), ScoringRoutes(model)
    app.add_api_route("/v1/embeddings", pooling.embeddings, methods=["POST"])
    app.add_api_route("/classify", pooling.classify, methods=["POST"])
    app.add_api_route("/pooling", pooling.pooling, methods=["POST"])
    for prefix in ("", "/v1"):
        app.add_api_route(f"{prefix}/score", scoring.score, methods=["POST"])
    for prefix in ("", "/v1", "/v2"):
        app.add_api_route(f"{prefix}/rerank", scoring.rerank, methods=["POST"])


def _add_layers(app: FastAPI, options: ServerOptions) -> None:
    """Wraps the router; what is added last is outermost."""
    app.add_middleware(
        BodyLimitMiddleware, max_bytes=options.max_body_bytes, timeout=options.body_timeout
    )
    if options.api_keys:
        app.add_middleware(
            ApiKeyMiddleware, keys=ApiKeys(options.api_keys), routes=app.router.routes
        )
    if options.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allowed_origins,
            allow_methods=options.allowed_methods,
            allow_headers=options.allowed_headers,
            allow_credentials=options.allow_credentials,
        )
    app.add_middleware(RequestIdMiddleware)
    if options.root_path:
        app.add_middleware(RootPathMiddleware, root_path=options.root_path)


class _StatusRoutes:
    """What is served here, and whether it is well."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    @public
    async def health(self) -> Response:
        """200 while the engine runs, 503 once it has stopped."""
        await self._model.engine.check_health()
        return Response(status_code=200)

    @public
    async def ping(self) -> Response:
        """The same, under SageMaker's name."""
        return await self.health()

    @public
    async def version(self) -> Response:
        """The version of rustllm."""
        return JSONResponse({"version": rustllm.__version__})

    async def models(self) -> ModelList:
        """All names the model goes by."""
        return ModelList(data=self._model.cards())

    async def model_card(self, model_id: str) -> ModelCard:
        """One of them."""
        for card in self._model.cards():
            if card.id == model_id:
                return card
        self._model.check_name(model_id)
        raise HttpError(404, "There is no such model.", param="model", code="model_not_found")
