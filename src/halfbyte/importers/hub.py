"""A model on the Hugging Face hub -> its local snapshot directory."""

from __future__ import annotations

import re
from pathlib import Path

from halfbyte.errors import SourceError, reraise_machine_fault

_PATTERNS = ("*.safetensors", "*.json", "*.jinja")
# Other formats of the same weights, in folders or under another name.
_NOT_WEIGHTS = ("*/*", "consolidated*")


def is_hub_id(text: str) -> bool:
    """`owner/name`, as the hub spells it."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", text) is not None


def fetch_snapshot(repo: str) -> Path:
    """Download what an import needs, or reuse what is cached when offline. Raises SourceError."""
    from huggingface_hub import snapshot_download  # slow to load; only this path needs it

    try:
        return Path(
            snapshot_download(
                repo, allow_patterns=list(_PATTERNS), ignore_patterns=list(_NOT_WEIGHTS)
            )
        )
    except Exception as error:  # network, HTTP, disk and validation errors share no base class
        reraise_machine_fault(f"hub model {repo}", error)
        reason = " ".join(str(error).removeprefix("Got: ").split()) or type(error).__name__
        raise SourceError(
            f"hub model {repo}",
            got=reason[:200],
            expected="a model that can be downloaded",
            fix="check the id, the network and access to it, or name a local directory",
        ) from error
