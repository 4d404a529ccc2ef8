"""What is served and its health: /v1/models, /health, and endpoints refused by name."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from halfbyte.server.errors import ApiError
from halfbyte.server.service import Service, service_of


async def models(request: Request) -> JSONResponse:
    """The one model."""
    return JSONResponse({"object": "list", "data": [_model(service_of(request))]})


async def model(request: Request) -> JSONResponse:
    """The one model, by name."""
    service = service_of(request)
    service.check_model(request.path_params["model"])
    return JSONResponse(_model(service))


async def health(request: Request) -> JSONResponse:
    """200 while requests are taken and steps end."""
    service = service_of(request)
    if service.engine.has_failed:
        status = "failed"
    elif not service.engine.is_running:
        status = "draining"
    else:
        status = "stalled" if service.watchdog.is_alarmed else "ok"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


async def embeddings(request: Request) -> JSONResponse:
    """Not what a decoder is for."""
    raise ApiError(
        400,
        "embeddings: this server runs a text generation model and makes no embeddings; "
        "use an embedding model's server",
        code="unsupported_endpoint",
    )


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.options.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "halfbyte",
        "max_model_len": service.model.context,
        "halfbyte": {
            "cascades": service.cascades,
            "default_cascade": str(service.engine.llm.cascade),
        },
    }
