"""House rules that a machine can check: layers, types, style, length of functions, words that must not appear."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("schemas", "engine", "runtime", "streams", "connectors", "sinks", "ws_gateway", "barograph", "control")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
BODY_LINES_MAX = 70
"""A function fits a screen."""


def _tool(*argv: str) -> None:
    done = subprocess.run([*argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_layers_hold() -> None:
    _tool(str(Path(sys.executable).parent / "lint-imports"))


@pytest.mark.timeout(600)
def test_types_are_strict() -> None:
    _tool(sys.executable, "-m", "mypy")


def test_style() -> None:
    _tool(sys.executable, "-m", "ruff", "check", ".")
    _tool(sys.executable, "-m", "ruff", "format", "--check", ".")


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_fit_a_screen(path: Path) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        node.name: _body_lines(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, functions) and _body_lines(node) > BODY_LINES_MAX
    }
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_have_a_lecture(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), "a module starts by saying what it is for"


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines()]


UNWANTED = {
    "an unowned note": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    "a registry's address": re.compile(
        r"(pypi\.|pythonhosted\.|npm" + r"js\.|maven\.|deb" + r"ian\.org)", re.IGNORECASE
    ),
    "a path of one machine": re.compile(r"(/wo" + r"rk/|/ro" + r"ot/|/ho" + r"me/[a-z])"),
}


@pytest.mark.parametrize("what", UNWANTED)
def test_nothing_unwanted_is_written(what: str) -> None:
    found = []
    for path in _tracked():
        if path.suffix in {".zst", ".dbn", ".png", ".parquet", ".arrow"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {m.group(0)}" for m in UNWANTED[what].finditer(text)]
    assert not found


def test_no_market_data_is_committed() -> None:
    data = [p for p in _tracked() if p.name.endswith((".dbn", ".dbn.zst", ".dbz"))]
    assert all(p.parent == ROOT / "tests/golden/data" for p in data)
    assert all(p.stat().st_size < 1_000_000 for p in _tracked() if p.is_file())


def test_no_installed_distribution_has_our_top_level_names() -> None:
    ours = set(PACKAGES)
    clashes = {
        (dist.metadata["Name"], name)
        for dist in metadata.distributions()
        if dist.metadata["Name"] != "barograph"
        for name in (dist.read_text("top_level.txt") or "").split()
        if name in ours
    }
    assert not clashes


def test_tests_have_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py")), "a package below tests hides one of ours"
