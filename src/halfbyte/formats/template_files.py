"""Where a checkpoint has further chat templates: `additional_chat_templates/NAME.jinja`.

The layout is that of Hugging Face's models, so that a checkpoint and its source look alike.
"""

from __future__ import annotations

import re
from pathlib import Path

TEMPLATE_DIRECTORY = "additional_chat_templates"
MAX_TEMPLATES = 16

_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}", re.ASCII)


def is_template_name(name: str) -> bool:
    """Whether a template of this name is taken over: it becomes a file's name."""
    return _NAME.fullmatch(name) is not None


def template_file(name: str) -> str:
    """The file of a named template, within its model's directory."""
    return f"{TEMPLATE_DIRECTORY}/{name}.jinja"


def template_names(directory: Path) -> list[str]:
    """Names of the templates that a model's directory has."""
    files = sorted((directory / TEMPLATE_DIRECTORY).glob("*.jinja"))
    return [file.stem for file in files if is_template_name(file.stem)][:MAX_TEMPLATES]
