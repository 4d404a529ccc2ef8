"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.server.body import read_body
from halfbyte.server.errors import bad_request
from halfbyte.server.prompting import Conversation, write_chat
from halfbyte.server.schema.tokens import DetokenizeBody, TokenizeBody
from halfbyte.server.service import service_of


async def tokenize(request: Request) -> JSONResponse:
    """Token ids of a text or a conversation."""
    service = service_of(request)
    body = await read_body(request, TokenizeBody, service)
    service.check_model(body.model)
    if body.messages is not None:
        conversation = Conversation.of_tokens(body, body.messages)
        _, ids = await write_chat(request, service, conversation)
    else:
        text = body.prompt if body.prompt is not None else body.content or ""
        ids = await service.encode(text, as_chat=not body.add_special_tokens)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": service.model.context,
        "tokens": ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        texts = service.model.codec.token_texts
        answer["token_strs"] = await service.aside(len(ids), lambda: texts(ids))
    return JSONResponse(answer)


async def detokenize(request: Request) -> JSONResponse:
    """The text of token ids, special tokens included."""
    service = service_of(request)
    body = await read_body(request, DetokenizeBody, service)
    service.check_model(body.model)
    vocab, codec = service.model.runtime.config.vocab_size, service.model.codec
    bad = max(body.tokens, default=0)
    if bad >= vocab:
        raise bad_request(f"tokens: got {bad}, expected ids from 0 to {vocab - 1}", param="tokens")
    ids = body.tokens
    text = await service.aside(len(ids), lambda: codec.decode(ids, keep_special=True))
    return JSONResponse({"prompt": text, "content": text})
