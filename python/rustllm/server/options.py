"""What the server is told beside the engine's arguments."""

import ssl
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ServerOptions:
    """How requests are answered.

    Attributes:
        api_keys: Keys that open the server; none leaves it open.
        root_path: Prefix under which a proxy serves this server.
        allowed_origins: Origins browsers may call from; none sends no CORS header.
        allowed_methods: Methods such browsers may use.
        allowed_headers: Headers such browsers may send.
        allow_credentials: Whether such browsers may send cookies and keys of their own accord.
        response_role: Role of answers.
        default_chat_template_kwargs: Variables for the chat template; a request's own go before
            them.
        trust_request_chat_template: Whether a request may bring its own chat template.
        return_tokens_as_token_ids: Write tokens in `logprobs` as `token_id:ID` unless a request
            says otherwise.
        enable_prompt_tokens_details: Tell in `usage` how many prompt tokens were cached.
        enable_force_include_usage: End every stream with its usage, asked for or not.
        enable_log_requests: Log each request's id, size and sampling parameters, never its text.
        max_body_bytes: Largest request body.
        body_timeout: Seconds a body may take to arrive.
    """

    api_keys: list[str] = field(default_factory=list, repr=False)
    root_path: str = ""
    allowed_origins: list[str] = field(default_factory=list)
    allowed_methods: list[str] = field(default_factory=lambda: ["*"])
    allowed_headers: list[str] = field(default_factory=lambda: ["*"])
    allow_credentials: bool = False
    response_role: str = "assistant"
    default_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    trust_request_chat_template: bool = False
    return_tokens_as_token_ids: bool = False
    enable_prompt_tokens_details: bool = False
    enable_force_include_usage: bool = False
    enable_log_requests: bool = False
    max_body_bytes: int = 16 << 20
    body_timeout: float = 30.0


@dataclass(frozen=True)
class Endpoint:
    """Where and how the server listens.

    Attributes:
        host: Address or name to listen on.
        port: Port; 0 for any free one.
        uds: Path of a Unix socket, instead of host and port.
        ssl_keyfile: Private key; with `ssl_certfile` the server speaks HTTPS.
        ssl_certfile: Certificate chain.
        ssl_ca_certs: Authorities that sign clients' certificates.
        ssl_cert_reqs: 0 to ask clients for no certificate, 1 to accept one, 2 to require one.
        shutdown_timeout: Seconds running requests get to finish once the server is told to stop.
        log_level: uvicorn's log level.
        access_log: Whether to log a line for each request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = int(ssl.CERT_NONE)
    shutdown_timeout: float = 30.0
    log_level: str = "info"
    access_log: bool = True
