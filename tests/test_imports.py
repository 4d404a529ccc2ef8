"""Imports point one way, and `import halfbyte` loads next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import halfbyte

PACKAGE = Path(halfbyte.__file__).parent

# docs/architecture.md, bottom first. Two rooms share a rank only where neither imports the other.
ROOMS = (
    ("errors",),
    ("config",),
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


def test_cascade_and_engine_never_touch_a_kernel() -> None:
    for path in _modules():
        if _room(path) in ("cascade", "engine"):
            assert "_native" not in path.read_text(encoding="utf-8")


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
