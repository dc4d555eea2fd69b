"""`rustllm serve`: a model over HTTP."""

import argparse
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args, json_object
from rustllm.engine_args import EngineArgs
from rustllm.server.options import Endpoint, ServerOptions

API_KEY_VARIABLE = "RUSTLLM_API_KEY"

_NO_EFFECT = {
    "enable_request_id_headers": "X-Request-Id is always sent back",
    "disable_fastapi_docs": "there are no documentation pages",
    "disable_frontend_multiprocessing": "the engine runs on threads of one process",
}
"""vLLM's switches of the server that change nothing here."""

_LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_Config = TypeVar("_Config", Endpoint, ServerOptions)


def run(arguments: list[str]) -> int:
    """Serves until told to stop."""
    parser = _parser()
    args = parser.parse(arguments)
    if args.model_tag is not None and args.model is not None:
        parser.error("give the model once: as MODEL or as --model")
    if args.allow_credentials and "*" in (args.allowed_origins or ()):
        parser.error("--allow-credentials needs origins by name in --allowed-origins, not *")
    if (args.ssl_keyfile is None) != (args.ssl_certfile is None):
        parser.error("--ssl-keyfile and --ssl-certfile go together")
    args.api_keys = args.api_keys or _keys_of_environment()
    if any(not key.strip() for key in args.api_keys):
        parser.error("--api-key must not be empty")
    logging.basicConfig(
        stream=sys.stderr,
        level=args.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    engine = engine_args(parser, args, args.model_tag or args.model)
    if (
        not args.api_keys
        and args.uds is None
        and args.host not in ("127.0.0.1", "::1", "localhost")
    ):
        logging.getLogger("rustllm").warning(
            "there is no --api-key: whoever can reach %s can use this server", args.host
        )
    for name, reason in _NO_EFFECT.items():
        if getattr(args, name):
            logging.getLogger("rustllm").warning("%s has no effect: %s", name, reason)

    from rustllm.server.launch import serve

    return serve(engine, names(engine), _pick(Endpoint, args), _pick(ServerOptions, args))


def names(engine: EngineArgs) -> list[str]:
    """The names clients may ask for. A folder is known by its last part, so that its path stays
    private.
    """
    if engine.served_model_name:
        return engine.served_model_names
    path = Path(str(engine.model))
    return [path.resolve().name] if path.is_dir() else engine.served_model_names


def _pick(config: type[_Config], args: argparse.Namespace) -> _Config:
    """The fields of `config` that were given."""
    fields = (field.name for field in dataclasses.fields(config))
    given = {name: getattr(args, name, None) for name in fields}
    return config(**{name: value for name, value in given.items() if value is not None})


def _keys_of_environment() -> list[str]:
    key = os.environ.get(API_KEY_VARIABLE)
    return [key] if key else []


def _parser() -> Parser:
    parser = Parser("serve", "Serve a model over HTTP with OpenAI's API.")
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help="model folder or hub id")
    parser.add_argument("--model", help="the same as MODEL")
    _add_endpoint_flags(parser)
    _add_access_flags(parser)
    _add_answer_flags(parser)
    for name in _NO_EFFECT:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    add_engine_flags(parser)
    return parser


def _add_endpoint_flags(parser: Parser) -> None:
    group = parser.add_argument_group("endpoint")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; unlike vLLM only this machine can connect unless told: "
        "0.0.0.0 opens it to the network",
    )
    group.add_argument("--port", type=_port, default=8000, help="port; 0 for any free one")
    group.add_argument("--uds", metavar="PATH", help="Unix socket to listen on instead")
    group.add_argument("--ssl-keyfile", metavar="PATH", help="private key, for HTTPS")
    group.add_argument("--ssl-certfile", metavar="PATH", help="certificate chain, for HTTPS")
    group.add_argument("--ssl-ca-certs", metavar="PATH", help="authorities of client certificates")
    group.add_argument(
        "--ssl-cert-reqs",
        type=int,
        choices=(0, 1, 2),
        help="client certificates: 0 none, 1 optional, 2 required",
    )
    group.add_argument(
        "--shutdown-timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long running requests may go on after SIGTERM; then they are aborted",
    )
    group.add_argument(
        "--uvicorn-log-level", dest="log_level", choices=_LOG_LEVELS, default="info", help="logging"
    )
    group.add_argument(
        "--disable-uvicorn-access-log",
        dest="access_log",
        action="store_const",
        const=False,
        help="log no line for each request",
    )


def _add_access_flags(parser: Parser) -> None:
    group = parser.add_argument_group("access")
    group.add_argument(
        "--api-key",
        dest="api_keys",
        action="append",
        metavar="KEY",
        help="key clients must send as a bearer token; may be repeated "
        f"(also from the variable {API_KEY_VARIABLE}, which does not show in process lists)",
    )
    group.add_argument("--root-path", metavar="PATH", help="prefix a proxy serves this under")
    for name in ("origins", "methods", "headers"):
        group.add_argument(
            f"--allowed-{name}",
            type=_strings,
            metavar="JSON",
            help=f"{name} browsers may call with, a JSON list or one string; no origins, no CORS",
        )
    group.add_argument(
        "--allow-credentials",
        action="store_true",
        default=None,
        help="let those origins send credentials",
    )
    group.add_argument(
        "--max-body-bytes", type=_count, metavar="N", help="largest request body (default: 16 MiB)"
    )


def _add_answer_flags(parser: Parser) -> None:
    group = parser.add_argument_group("answers")
    group.add_argument("--response-role", metavar="ROLE", help="role of answers to chats")
    group.add_argument(
        "--default-chat-template-kwargs",
        type=json_object,
        metavar="JSON",
        help="variables for the chat template; a request's own go before them",
    )
    switches = {
        "trust_request_chat_template": "let requests bring a chat template",
        "return_tokens_as_token_ids": "write tokens in logprobs as token_id:ID",
        "enable_prompt_tokens_details": "tell in usage how many prompt tokens were cached",
        "enable_force_include_usage": "end every stream with its usage",
        "enable_log_requests": "log id, size and parameters of requests, never their text",
    }
    for name, text in switches.items():
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, got {text!r}")
    return seconds


def _strings(text: str) -> list[str]:
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = [text]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise argparse.ArgumentTypeError(f"must be a JSON list of strings, got {text!r}")
    return value
