"""Errors of the HTTP server, in OpenAI's shape.

Every error leaves as `{"error": {"message", "type", "param", "code"}}`. What is raised on purpose
carries its message to the client; anything else becomes a plain 500 whose id is found in the log
beside the traceback.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rustllm.errors import EngineDeadError, ValidationError

logger = logging.getLogger("rustllm.server")

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
"""Objects of this process, as Python prints them."""


class HttpError(Exception):
    """An answer other than success, meant for the client to read.

    Attributes:
        status: HTTP status.
        message: What went wrong and what is allowed.
        type: OpenAI's error class.
        param: The request field to blame.
        code: OpenAI's machine-readable code.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The JSON body that says it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> HttpError:
    """A 400 that blames a field of the request."""
    return HttpError(400, message, param=param, code=code)


def as_http_error(error: Exception, request_id: str) -> HttpError:
    """What the client may know of `error`. The unexpected is logged in full under `request_id`."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, ValidationError):
        param = "prompt" if error.parameter == "prompt_token_ids" else error.parameter
        return bad_request(_ADDRESS.sub("0x...", str(error)), param=param)
    if isinstance(error, EngineDeadError):
        logger.error("request %s: %s", request_id, error)
        message = "The engine has stopped; the server must be restarted."
        return HttpError(503, message, type="server_error", code="engine_dead")
    logger.error("request %s failed", request_id, exc_info=error)
    message = f"Internal server error; the log has the cause under request id {request_id}."
    return HttpError(500, message, type="server_error")


def request_id_of(request: Request) -> str:
    """The id that names this request in answers and in the log."""
    return str(request.state.request_id)


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of `app`'s routes leave in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for expected in (HttpError, ValidationError, EngineDeadError):
        app.add_exception_handler(expected, _on_error)


async def _on_error(request: Request, error: Exception) -> Response:
    return as_http_error(error, request_id_of(request)).response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"There is no {request.method} {request.scope['path']} here.",
        405: f"{request.method} is not allowed on {request.scope['path']}.",
        400: "The request body could not be read as JSON.",
    }
    message = messages.get(error.status_code, "The request was refused.")
    return HttpError(error.status_code, message).response(error.headers)


async def _on_invalid_body(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _explain(error.errors(), request.headers.get("content-type")).response()


def _explain(problems: Any, content_type: str | None) -> HttpError:
    """The first thing wrong with a body, in one sentence that quotes none of it."""
    problem = problems[0]
    kind, location = problem["type"], [str(part) for part in problem["loc"][1:]]
    if kind == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "malformed")
        return bad_request(f"The request body is not valid JSON: {reason}.")
    if not location:
        if kind == "missing":
            return bad_request("The request body is missing; a JSON object is expected.")
        if "json" not in (content_type or "").lower():
            return bad_request("The Content-Type must be application/json.")
        return bad_request("The request body must be a JSON object.")
    param = location[0]
    if kind == "extra_forbidden":
        return bad_request(f"Unknown field: {'.'.join(location)}.", param=param)
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error" and reason.startswith(param):
        return bad_request(reason, param=param)
    return bad_request(f"{'.'.join(location)}: {reason}.", param=param)
