"""What `halfbyte serve` was asked for, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halfbyte.errors import ArgumentError
from halfbyte.options import check_options, integer, number, option

KEY_VARIABLE = "HALFBYTE_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_KEY_FILE_BYTES = 1 << 20
_LEAVE = "leave it out"
_ORIGIN = re.compile(r"^(\*|https?://[^/\s]+)$")


@dataclass(frozen=True)
class ServeOptions:
    """How the server meets the outside. What the engine is told is in its own options."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 is every network.")
    port: int = option(8000, "Port; 0 picks a free one.", integer(0, 65535, _LEAVE), "--port", "-p")
    model_name: str = option("model", "Model name that clients use.")
    api_keys: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = option(
        (),
        "Web origin that may call from a browser; may be given several times.",
        None,
        "--cors-origin",
    )
    allowed_hosts: tuple[str, ...] = option(  # see `host_names`
        (),
        "Host header to answer to; may be given several times.",
        None,
        "--allowed-host",
        default_text="on loopback its own names, else any",
    )
    cascades: tuple[str, ...] = ()  # what a request may choose; the engine's own is always there
    max_tokens: int | None = option(
        None,
        "Most new tokens of a request.",
        integer(1, 2**31 - 1, _LEAVE),
        default_text="what the context leaves",
    )
    max_body_bytes: int = option(
        4 << 20, "Most bytes of a request's body.", integer(1024, 1 << 30, _LEAVE), "--max-body"
    )
    request_timeout: float = option(
        600.0,
        "Seconds from a request's arrival to its last token.",
        number(0.01, 86400, _LEAVE),
    )
    body_timeout: float = option(
        30.0, "Seconds a client may take to send its body.", number(0.01, 86400, _LEAVE)
    )
    drain_seconds: float = option(
        30.0,
        "Seconds that running requests get after SIGTERM.",
        number(0, 86400, _LEAVE),
        "--drain",
    )
    playground: bool = option(True, "The page at /.")

    def __post_init__(self) -> None:
        check_options(self)
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
    """Keys from a file (one per line, # comments) and from the environment; none: no check."""
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


def _bad_keys(got: str) -> ArgumentError:
    return ArgumentError(
        "api keys", got=got, expected="one ASCII key a line", fix="write a key into the file"
    )
