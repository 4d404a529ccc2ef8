"""The application: one table of endpoints makes the routes and the OpenAPI document."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import halfbyte
from halfbyte.api.async_engine import AsyncEngine
from halfbyte.errors import HalfbyteError
from halfbyte.server.chat import chat_completions
from halfbyte.server.completions import completions
from halfbyte.server.errors import ApiError
from halfbyte.server.failures import on_api_error, on_halfbyte_error, on_http_error
from halfbyte.server.gate import Gate
from halfbyte.server.held_bytes import BODIES_AT_ONCE, HeldBytes
from halfbyte.server.metrics import EngineCollector, metrics
from halfbyte.server.models import embeddings, health, model, models
from halfbyte.server.openapi import Endpoint, document
from halfbyte.server.options import ServeOptions
from halfbyte.server.playground import Playground
from halfbyte.server.schema import answers, chat, completion
from halfbyte.server.schema import tokens as token_schema
from halfbyte.server.service import Service
from halfbyte.server.tokens import detokenize, tokenize
from halfbyte.server.watchdog import Watchdog

_BUSY = (404, 429, 503)
ENDPOINTS = (
    Endpoint(
        "GET",
        "/health",
        "Whether requests are taken.",
        health,
        answer=answers.Health,
        public=True,
        unwell=answers.Health,
    ),
    Endpoint("GET", "/metrics", "Prometheus metrics.", metrics, media_type="text/plain"),
    Endpoint("GET", "/v1/models", "The served model.", models, answer=answers.ModelList),
    Endpoint(
        "GET",
        "/v1/models/{model:path}",
        "The served model, by name.",
        model,
        answer=answers.Model,
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/completions",
        "Continue a prompt.",
        completions,
        completion.CompletionBody,
        completion.Completion,
        streams=True,
        errors=_BUSY,
    ),
    Endpoint(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation.",
        chat_completions,
        chat.ChatBody,
        chat.ChatCompletion,
        streams=True,
        errors=_BUSY,
    ),
    Endpoint(
        "POST", "/v1/embeddings", "Refused: this is no embedding model.", embeddings, errors=(400,)
    ),
    Endpoint(
        "POST",
        "/tokenize",
        "Token ids of a text or conversation.",
        tokenize,
        token_schema.TokenizeBody,
        token_schema.Tokens,
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/detokenize",
        "Text of token ids.",
        detokenize,
        token_schema.DetokenizeBody,
        token_schema.Text,
        errors=(404,),
    ),
)


def _warm(engine: AsyncEngine) -> None:
    """Start the process that renders conversations, so that the first need not wait for it."""
    with suppress(HalfbyteError):  # a model without text or chat; a request for it gets the reason
        _ = engine.llm.model.template
    _give_back_freed_memory()


def _give_back_freed_memory() -> None:
    """What reading the tokenizer has freed, 25 MB of it for 49k tokens, would stay resident."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def build_app(engine: AsyncEngine, options: ServeOptions) -> Starlette:
    """Serves `engine`, which starts and stops with the application."""
    watchdog = Watchdog(engine)
    seen: Counter[tuple[str, int]] = Counter()
    known = {endpoint.path for endpoint in ENDPOINTS} | {"/"}

    def observe(path: str, status: int, seconds: float) -> None:
        seen[path if path in known else "other", status] += 1

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.start()
        await asyncio.to_thread(_warm, engine)
        watching = asyncio.create_task(watchdog.watch())
        try:
            yield
        finally:
            watching.cancel()
            await engine.stop(0.0)

    described = document(ENDPOINTS, version=halfbyte.__version__, keys=bool(options.api_keys))

    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse(described)

    routes = [Route(e.path, e.handler, methods=[e.method]) for e in ENDPOINTS]
    routes.append(Route("/openapi.json", openapi, methods=["GET"]))
    if options.playground:
        routes.append(Route("/", Playground().__call__, methods=["GET"]))
    layers = [Middleware(Gate, options=options, observe=observe)]
    if options.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=options.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "x-request-id"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    app = Starlette(
        routes=routes,
        middleware=layers,
        lifespan=lifespan,
        exception_handlers={
            ApiError: on_api_error,
            HalfbyteError: on_halfbyte_error,
            HTTPException: on_http_error,
        },
    )
    bodies = HeldBytes(BODIES_AT_ONCE * options.max_body_bytes)
    app.state.service = Service(engine, options, int(time.time()), bodies, watchdog)
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, seen, watchdog))
    app.state.registry = registry
    return app
