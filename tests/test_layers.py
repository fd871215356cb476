"""The doors between the rooms: who may import whom. import-linter holds them, as pyproject.toml says; here is
what it cannot tell."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = sorted((ROOT / "components").rglob("*.py"))
DEMOS = sorted((ROOT / "demos").glob("*.py"))
APP = ROOT / "app.py"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
HEAVY = {"torch", "transformers", "librosa", "plotly", "av", "huggingface_hub", "captum"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def modules(node: ast.AST, top_level_only: bool = False, package: str = "") -> Iterator[str]:
    """Dotted names of what is imported under a node, in functions as well; not what only types need."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(part for part in (package if child.level else "", child.module or "") if part)
            yield base
            # `from package import module` names a module as well.
            yield from (f"{base}.{alias.name}" for alias in child.names)
        elif is_type_checking(child) or (top_level_only and isinstance(child, FUNCTIONS)):
            continue
        else:
            yield from modules(child, top_level_only, package)


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    package = ".".join(path.parent.relative_to(ROOT).parts)
    return set(modules(tree(path), top_level_only, package))


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_reading_finds_imports():
    source = (
        "import a.b\nfrom . import sister\nif TYPE_CHECKING:\n    import types_only\n"
        "try:\n    import tried\nexcept ImportError:\n    pass\n"
        "def f():\n    from inside import x\nclass C:\n    import held\n"
    )
    whole = set(modules(ast.parse(source), package="demos"))
    assert whole == {"a.b", "demos", "demos.sister", "tried", "inside", "inside.x", "held"}
    top = set(modules(ast.parse(source), top_level_only=True, package="demos"))
    assert top == whole - {"inside", "inside.x"}


def test_the_doors_are_kept():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [*COMPONENTS, *DEMOS], ids=shown)
def test_the_app_is_known_to_nobody(path):
    assert not roots(imported(path)) & {"app", "tests", "training", "benchmarks"}


def test_no_tab_is_named_outside_its_module():
    for path in (APP, *COMPONENTS, ROOT / "demos" / "__init__.py"):
        names = imported(path)
        assert not names & {f"demos.{tab.stem}" for tab in DEMOS if tab.stem != "__init__"}, path.name


def bound_from_gradio(module: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0] for a in node.names if a.name.split(".")[0] == "gradio"
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradio":
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def used_outside_build(module: ast.Module, names: set[str]) -> list[int]:
    """Lines at which a name is used anywhere but in `build` and what it is made of, `build_…`."""
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    builds = [node for node in functions if node.name == "build" or node.name.startswith("build_")]
    inside = {node for build in builds for node in ast.walk(build)}
    return [
        node.lineno
        for node in ast.walk(module)
        if isinstance(node, ast.Name) and node.id in names and node not in inside
    ]


@pytest.mark.parametrize("path", DEMOS, ids=shown)
def test_in_a_tab_only_build_names_gradio(path):
    module = tree(path)
    names = bound_from_gradio(module)
    assert not used_outside_build(module, names)
    if path.name != "__init__.py":
        assert names, "a tab draws something"


def test_the_search_for_gradio_finds_it():
    module = ast.parse(
        "import gradio as gr\nfrom gradio import media\ndef build():\n    gr.x\nmedia.y\n"
        "def build_drawer():\n    gr.x\ndef rebuild():\n    gr.x\n"
    )
    assert bound_from_gradio(module) == {"gr", "media"}
    assert used_outside_build(module, {"gr", "media"}) == [5, 9]


@pytest.mark.parametrize("path", [APP, *COMPONENTS, *DEMOS], ids=shown)
def test_nothing_heavy_is_imported_with_a_module(path):
    assert not roots(imported(path, top_level_only=True)) & HEAVY


def test_importing_the_app_loads_nothing_heavy():
    # Gradio itself imports huggingface_hub; the others must wait for the first click.
    script = f"import sys, app; print(sorted(set(sys.modules) & {HEAVY - {'huggingface_hub'}!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_importing_reads_no_arguments_and_writes_nothing(tmp_path):
    script = "import sys; sys.argv = ['app', '--no-such-option']; import app"
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache" / "transformer-tour").exists()
