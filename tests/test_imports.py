"""Imports point one way, and `import halfbyte` loads next to nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import pytest

import halfbyte

PACKAGE = Path(halfbyte.__file__).parent

# docs/architecture.md, bottom first. Two rooms share a rank only where neither imports the other.
ROOMS = (
    ("errors", "helper_worker"),
    ("checks", "helper_process"),
    ("config", "options"),
    ("_native",),
    ("formats",),
    ("quantize",),
    ("importers", "runtime"),
    ("sampling",),
    ("text",),
    ("cascade",),
    ("proposers",),
    ("engine",),
    ("planner",),
    ("api",),
    ("calibration", "evaluate", "server", "train"),
    ("cli", "__main__"),
)
LEVEL_OF = {name: level for level, names in enumerate(ROOMS) for name in names}


def _modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    """Rooms of halfbyte that a file imports anywhere, type checking left out."""
    rooms = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "halfbyte":
                rooms |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("halfbyte."):
                rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("halfbyte.")}
    return rooms


def test_every_module_has_a_room() -> None:
    assert {_room(p) for p in _modules()} <= set(LEVEL_OF)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    own = _room(path)
    for room in _imported_rooms(path) - {own}:
        below = LEVEL_OF[room] < LEVEL_OF[own] or own == "__main__"
        assert below, f"{own} imports {room}"


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def _run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported; those of classes and of `try` too."""
    for statement in body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _run_on_import(getattr(statement, part, []))


def _imported_modules(statements: Iterable[ast.AST]) -> set[str]:
    """Names of ours that import statements name; of `from a import b` both `a` and `a.b`."""
    names = set()
    for node in statements:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "halfbyte"}


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _followed(rooms: Container[str]) -> set[str]:
    """Everything of ours that importing these rooms imports, directly or not."""
    paths = {_name(path): path for path in _modules()}
    waiting = [name for name, path in paths.items() if _room(path) in rooms]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in paths:
            waiting += _imported_modules(_run_on_import(_parsed(paths[name]).body))
    return seen


def test_cascade_and_engine_never_touch_a_kernel() -> None:
    followed = _followed(("cascade", "engine"))
    assert "halfbyte.runtime.protocol" in followed  # it does follow
    kernels = ("halfbyte._native", "halfbyte.runtime.native", "halfbyte.runtime.reference")
    assert not [name for name in followed if name.startswith(kernels)]
    assert "halfbyte._native" in _followed(("calibration",))  # two imports away, through quantize


def test_no_production_module_imports_the_slow_twin() -> None:
    """But to build the backend of that name, which is it."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in _modules()
        if not path.name.startswith("reference")
        and any(
            name.startswith("halfbyte.runtime.reference")
            for name in _imported_modules(ast.walk(_parsed(path)))
        )
    }
    assert users == {"api/loading.py"}


def test_an_explicit_cascade_loads_neither_a_planner_nor_the_slow_twin(
    talking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFBYTE_CACHE", str(tmp_path))  # of the cost table that `auto` measures
    decode = "[halfbyte.LLM(MODEL, c, threads=1).generate('a') for c in CASCADES]"
    for cascades, planner in (
        (("w8a16", "w4a8 > w8a16", "ngram > w4a8 > w8a16"), False),
        (
            ("auto",),
            True,
        ),
    ):
        loaded = _loaded_by(
            f"import halfbyte; MODEL, CASCADES = {str(talking_model)!r}, {cascades!r}; {decode}"
        )
        assert "halfbyte.runtime.native" in loaded
        assert any(name.startswith("halfbyte.planner") for name in loaded) == planner
        assert not [name for name in loaded if name.startswith("halfbyte.runtime.reference")]


WITHOUT_NATIVE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "halfbyte._native":
            raise ImportError("no module named halfbyte._native")

sys.meta_path.insert(0, Missing())
from halfbyte import LLM, SamplingParams
from halfbyte.errors import ArgumentError

try:
    LLM(sys.argv[1])
except ArgumentError as error:
    assert "backend='reference'" in str(error), error
else:
    raise AssertionError("the native backend without a native module")
greedy = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
for cascade in ("w8a16", "ngram > w8a16", "ngram > w4a8 > w8a16", "auto"):
    llm = LLM(sys.argv[1], cascade, backend="reference", num_tokens=256)
    print(llm.generate("abcabcabcabc", greedy)[0].token_ids)
assert "halfbyte._native" not in sys.modules
"""


def test_the_reference_backend_decodes_without_the_native_module(
    talking_model: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NATIVE, str(talking_model)],
        capture_output=True,
        text=True,
        env={**os.environ, "HALFBYTE_CACHE": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, *others = done.stdout.splitlines()
    assert others == [plain] * 3


def _loaded_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_halfbyte_loads_neither_torch_nor_anything_heavy() -> None:
    loaded = _loaded_by("import halfbyte")
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "tokenizers",
        "jinja2",
        "starlette",
        "pydantic",
        "halfbyte._native",
    }
    assert not heavy & loaded
    assert not {m for m in loaded if m.startswith("halfbyte.")}


def test_the_whole_core_runs_without_torch() -> None:
    loaded = _loaded_by("import halfbyte.api.llm, halfbyte.cli.main, halfbyte.evaluate.bench")
    assert not {"torch", "transformers", "starlette", "pydantic", "uvicorn", "gguf.torch"} & loaded


def test_the_command_line_shows_help_without_loading_numpy() -> None:
    assert "numpy" not in _loaded_by("import halfbyte.cli.main")


def test_a_converted_model_needs_no_library_of_the_importers() -> None:
    assert not {"gguf", "rich"} & _loaded_by("import halfbyte.api.llm, halfbyte.cli.generate")
