"""`POST /tokenize` and `POST /detokenize`."""

from starlette.responses import Response

from rustllm.server.chat import render_chat_prompt
from rustllm.server.options import ServerOptions
from rustllm.server.protocol import DetokenizeRequest, TokenizeRequest
from rustllm.server.responses import DetokenizeResponse, TokenizeResponse
from rustllm.server.served_model import ServedModel
from rustllm.server.streaming import json_response


class TokensRoute:
    """The endpoints and their dependencies."""

    def __init__(self, model: ServedModel, options: ServerOptions) -> None:
        self.model = model
        self.options = options

    async def tokenize(self, body: TokenizeRequest) -> Response:
        """Token ids of a text, or of a conversation as the chat template writes it."""
        self.model.check_name(body.model)
        if body.prompt is not None:
            special = True if body.add_special_tokens is None else body.add_special_tokens
            [token_ids] = await self.model.encode([body.prompt], add_special_tokens=special)
        else:
            token_ids = (await render_chat_prompt(self.model, self.options, body)).token_ids
        decode = self.model.tokenizer.decode_token
        return json_response(
            TokenizeResponse(
                count=len(token_ids),
                max_model_len=self.model.max_model_len,
                tokens=token_ids,
                token_strs=[decode(i) for i in token_ids] if body.return_token_strs else None,
            )
        )

    async def detokenize(self, body: DetokenizeRequest) -> Response:
        """The text of token ids."""
        self.model.check_name(body.model)
        return json_response(DetokenizeResponse(prompt=self.model.tokenizer.decode(body.tokens)))
