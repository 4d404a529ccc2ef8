"""A constraint in the forms that llguidance reads; never a path or a name that it would look up."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

from halfbyte.sampling.gbnf import is_gbnf, lark_of
from halfbyte.sampling.json_schema import followable
from halfbyte.sampling.params import StructuredOutputs

_MAIN = '%llguidance {"no_forcing": true}\nstart: @text'


def library_form(wanted: StructuredOutputs, library: ModuleType) -> str:
    """A list of grammars, as JSON. Raises ValueError, RecursionError or `ArgumentError`."""
    main = {"name": "main", "lark_grammar": _MAIN}
    return json.dumps({"grammars": [main, {"name": "text"} | _grammar(wanted, library)]})


def _grammar(wanted: StructuredOutputs, library: ModuleType) -> dict[str, Any]:
    if wanted.json_object:
        return {"json_schema": followable({"type": "object"})}
    if wanted.json is not None:
        return {"json_schema": followable(json.loads(str(wanted.json)))}
    if wanted.regex is not None:
        form: str = library.LLMatcher.grammar_from_regex(wanted.regex)
        return {"lark_grammar": json.loads(form)["grammars"][0]["lark_grammar"]}
    if wanted.choice is not None:
        words = " | ".join(json.dumps(word, ensure_ascii=False) for word in wanted.choice)
        return {"lark_grammar": f"start: {words}"}
    text = str(wanted.grammar)
    return {"lark_grammar": lark_of(text) if is_gbnf(text) else text}
