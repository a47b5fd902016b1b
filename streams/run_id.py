"""`run`: the identity of whatever computes a line.

Two workers of one `run` write the same bytes for the same input, on any machine. So `run` covers all that may change a
byte: the sources of engine, schemas and stages with what encodes their rows, the semantic configuration, and the
libraries that do arithmetic or encode. It covers nothing else: no host, no path, no page of documentation, no clock. It
errs on the safe side: a changed comment in a source is another `run` too.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from typing import Any, Final

from runtime import avro_schemas, codec, sequence

SOURCES: Final = ("engine", "schemas", "streams")
MODULES: Final = (avro_schemas, codec, sequence)
"""Modules of other packages that make bytes or decide which messages count."""

LIBRARIES: Final = ("numpy", "numba", "llvmlite", "pyarrow", "fastavro")


@cache
def code_hash() -> str:
    """sha256 over every Python and Avro source of `SOURCES` and `MODULES`, by name and content."""
    digest = hashlib.sha256()
    found = [file for package in SOURCES for file in _files(package)]
    found += [(module.__name__, inspect.getsource(module).encode()) for module in MODULES]
    for path, data in sorted(found):
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def run_id(config: Mapping[str, Any]) -> str:
    """The first 16 hex digits of a hash of code, configuration and library versions."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    body = json.dumps({"code": code_hash(), "config": dict(config), "libraries": versions}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _files(package: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    def walk(node: Any, path: str) -> None:
        for child in node.iterdir():
            name = f"{path}/{child.name}"
            if child.is_dir():
                walk(child, name)
            elif name.endswith((".py", ".avsc", ".json")):
                found.append((name, child.read_bytes()))

    walk(resources.files(package), package)
    return found
