"""What `halfbyte serve` was asked for, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import ArgumentError

KEY_VARIABLE = "HALFBYTE_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_KEY_FILE_BYTES = 1 << 20
_ORIGIN = re.compile(r"^(\*|https?://[^/\s]+)$")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How the server meets the outside. What the engine is told is in its own options."""

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "model"
    api_keys: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # of the Host header; empty: see `host_names`
    cascades: tuple[str, ...] = ()  # what a request may choose; the engine's own is always there
    max_body_bytes: int = 4 << 20
    max_tokens: int | None = None  # most new tokens of a request; None: what the context leaves
    request_timeout: float = 600.0  # seconds, from arrival to the last token
    body_timeout: float = 30.0  # seconds a client may take to send its body
    drain_seconds: float = 30.0
    playground: bool = True

    def __post_init__(self) -> None:
        _check_range("port", self.port, 0, 65535)
        _check_range("max_body_bytes", self.max_body_bytes, 1024, 1 << 30)
        _check_range("request_timeout", self.request_timeout, 0.01, 86400)
        _check_range("body_timeout", self.body_timeout, 0.01, 86400)
        _check_range("drain_seconds", self.drain_seconds, 0, 86400)
        if self.max_tokens is not None:
            _check_range("max_tokens", self.max_tokens, 1, 2**31 - 1)
        for origin in self.cors_origins:
            if not _ORIGIN.match(origin):
                raise ArgumentError(
                    "cors origin",
                    got=repr(origin),
                    expected="scheme://host[:port], or *",
                    fix="for example https://chat.example.org",
                )

    @property
    def host_names(self) -> tuple[str, ...]:
        """Host headers that are answered; empty: any.

        On loopback only its own names, so that a web page cannot reach the server through a domain
        name that resolves to this machine.
        """
        if self.allowed_hosts or self.host not in LOOPBACK:
            return self.allowed_hosts
        return LOOPBACK


def read_api_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Keys from a file (one a line, # comments) and from the environment; none: no check."""
    keys = set()
    if path is not None:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_KEY_FILE_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise _bad_keys(f"{path.name}: {error}") from error
        lines = [line.strip() for line in text.splitlines()]
        keys = {line for line in lines if line and not line.startswith("#")}
        if not keys or len(text) > MAX_KEY_FILE_BYTES:
            raise _bad_keys(f"{path.name} with no key, or over {MAX_KEY_FILE_BYTES} bytes")
    if environment.get(KEY_VARIABLE):
        keys.add(environment[KEY_VARIABLE].strip())
    if any(not key.isascii() or any(c.isspace() for c in key) for key in keys):
        raise _bad_keys("a key with spaces or beyond ASCII")
    return frozenset(keys)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ArgumentError(
            name, got=repr(value), expected=f"{least:g} to {most:g}", fix="leave it out"
        )


def _bad_keys(got: str) -> ArgumentError:
    return ArgumentError(
        "api keys", got=got, expected="one ASCII key a line", fix="write a key into the file"
    )
