"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.server.body import read_body
from halfbyte.server.chat import render_chat
from halfbyte.server.errors import bad_request
from halfbyte.server.prompting import template_messages, template_tools
from halfbyte.server.schema.tokens import DetokenizeBody, TokenizeBody
from halfbyte.server.service import service_of


async def tokenize(request: Request) -> JSONResponse:
    """Token ids of a text or a conversation."""
    service = service_of(request)
    body = await read_body(request, TokenizeBody, service.options)
    service.check_model(body.model)
    if body.messages is not None:
        messages = template_messages(body.messages)
        ids = await render_chat(service, messages, template_tools(body.tools))
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
        answer["token_strs"] = service.model.codec.token_texts(ids)
    return JSONResponse(answer)


async def detokenize(request: Request) -> JSONResponse:
    """The text of token ids, special tokens included."""
    service = service_of(request)
    body = await read_body(request, DetokenizeBody, service.options)
    service.check_model(body.model)
    vocab = service.model.runtime.config.vocab_size
    bad = next((token for token in body.tokens if token >= vocab), None)
    if bad is not None:
        raise bad_request(f"tokens: got {bad}, expected ids from 0 to {vocab - 1}", param="tokens")
    text = service.model.codec.decode(body.tokens, keep_special=True)
    return JSONResponse({"prompt": text, "content": text})
