"""What users of the engine call says what goes in, what comes out and what is raised.

Kernels with one or two inputs beside the machine record may say it in a sentence; everything else has Google's
sections. That shapes, dtypes and units are in them, no machine can check.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent.parent / "engine"
SOURCES = sorted(ENGINE.glob("*.py"))
GIVEN = {"self", "cls", "m"}
"""`m` is the machine record that every kernel gets."""
SENTENCE_INPUTS_MAX = 2
"""Inputs of a kernel that a sentence can name."""


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of those."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = (n for n in node.body if isinstance(n, ast.FunctionDef))
                yield from (n for n in methods if not n.name.startswith("_"))


def names(nodes: list[ast.expr]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def section(doc: str, title: str) -> str:
    """Text of a section, empty if there is none."""
    found = re.search(rf"^{title}:\n(.*?)(?=^\S|\Z)", doc, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def raised(node: ast.AST) -> set[str]:
    calls = (n.exc for n in ast.walk(node) if isinstance(n, ast.Raise) and n.exc)
    return {name for call in calls for name in names([call.func if isinstance(call, ast.Call) else call])}


def lacking(node: ast.FunctionDef) -> list[str]:
    """What a function's docstring does not say."""
    doc = ast.get_docstring(node) or ""
    args = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in GIVEN]
    sentence = bool({"kernel", "inlined"} & names(node.decorator_list)) and len(args) <= SENTENCE_INPUTS_MAX
    found = [] if doc else ["a docstring"]
    if args and not sentence:
        told = section(doc, "Args")
        found += [f"Args: {name}" for name in args if not re.search(rf"\b{name}\b.*:", told)]
        if node.returns is not None and ast.unparse(node.returns) != "None" and not section(doc, "Returns"):
            found.append("Returns")
    return found + [f"Raises: {name}" for name in sorted(raised(node)) if name not in section(doc, "Raises")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_docstrings_say_what_goes_in_and_comes_out(path: Path) -> None:
    found = {}
    for node in public(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            missing = [] if ast.get_docstring(node) else ["a docstring"]
        else:
            missing = lacking(node)
        if missing:
            found[node.name] = missing
    assert not found
