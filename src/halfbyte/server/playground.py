"""GET /: the playground, one page that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = files("halfbyte.server") / "page"


class Playground:
    """The page, put together once, and the policy that lets it run its own script only."""

    def __init__(self) -> None:
        page, style, script = (
            (_FOLDER / name).read_text(encoding="utf-8")
            for name in ("page.html", "style.css", "app.js")
        )
        self._body = page.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).encode()
        self._headers = {
            "content-security-policy": "; ".join(
                (
                    "default-src 'none'",
                    f"script-src {_hash(script)}",
                    f"style-src {_hash(style)}",
                    "connect-src 'self'",
                    "img-src data:",
                    "base-uri 'none'",
                    "form-action 'none'",
                    "frame-ancestors 'none'",
                )
            ),
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }

    async def __call__(self, request: Request) -> Response:
        """The page."""
        return Response(self._body, media_type="text/html", headers=self._headers)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
