"""What transformers renders renders here, the same; what it refuses is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

from halfbyte.errors import HalfbyteError
from tests.support.conversations import (
    CONVERSATIONS,
    SPECIAL,
    TEMPLATES,
    TOOLS,
    VARIABLES,
    template,
)


def _theirs(source: str, messages: list[dict[str, Any]], tools: Any, how: Any) -> str | None:
    """None where it raises."""
    try:
        texts, _ = render_jinja_template(
            [_normalize_chat_messages(messages)],
            tools=tools,
            chat_template=source,
            **SPECIAL,
            **how,
        )
    except Exception:
        return None
    return str(texts[0])


def _ours(name: str, messages: list[dict[str, Any]], tools: Any, how: Any) -> str | None:
    own = ("add_generation_prompt", "continue_final_message")
    variables = {k: v for k, v in how.items() if k not in own}
    rest = {k: v for k, v in how.items() if k in own}
    try:
        text = template(name).render(messages, tools=tools, variables=variables, **rest)
    except HalfbyteError:
        return None
    return str(text)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_conversation_is_written_as_transformers_writes_it(name: str) -> None:
    written = 0
    for messages in CONVERSATIONS.values():
        for tools in (None, TOOLS):
            for variables in VARIABLES.values():
                for begins in (True, False):
                    how = {"add_generation_prompt": begins, **variables}
                    expected = _theirs(TEMPLATES[name], messages, tools, how)
                    assert _ours(name, messages, tools, how) == expected
                    written += expected is not None
    assert written >= 60  # of 288: most templates refuse some


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_message_is_continued_as_transformers_continues_it(name: str) -> None:
    for end in ("1, 2,", "1, 2, ", "  x\n", "<think>\nHm", "<s>", "CONTINUE"):
        for role in ("assistant", "user"):
            messages = [*CONVERSATIONS["a question"], {"role": role, "content": end}]
            how = {"continue_final_message": True, "add_generation_prompt": False}
            expected = _theirs(TEMPLATES[name], messages, None, how)
            assert _ours(name, messages, None, how) == expected
