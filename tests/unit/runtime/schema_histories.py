"""Releases with other schemas than ours, and what a set of schemas must satisfy."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from control.registry import differences
from runtime import avro_schemas
from runtime.avro_schemas import fingerprint, read_history

OURS = Path(avro_schemas.__file__).parents[1] / "schemas" / "avro"


def write(folder: Path, versions: Mapping[str, Sequence[tuple[int, Any]]]) -> Path:
    """A schema folder: name → (id, schema) of each version."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {}
    for name, entries in versions.items():
        for number, (_id, schema) in enumerate(entries, 1):
            file = f"{name}.avsc" if number == len(entries) else f"{name}.{number}.avsc"
            (folder / file).write_text(json.dumps(schema))
        listed[name] = [{"id": i, "fingerprint": fingerprint(schema)} for i, schema in entries]
    (folder / "ids.json").write_text(json.dumps(listed))
    return folder


@contextmanager
def release(folder: Path, registry: Mapping[int, str] | None = None) -> Iterator[None]:
    """As if this process were of a release with these schemas, and a registry with those."""
    caches = (avro_schemas.history, avro_schemas.reader_schema, avro_schemas.writer_schema)

    def clear() -> None:
        for cache in caches:
            cache.cache_clear()

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(avro_schemas, "read_history", lambda _folder: read_history(folder))
            patch.setattr(avro_schemas, "_fetch", dict(registry or {}).get)
            clear()
            yield
    finally:
        clear()


def faults(folder: Path) -> list[str]:
    """What is wrong with a folder of schemas; the rules of docs/decisions/0010-schema-registry.md."""
    found, history = [], read_history(folder)
    files = {
        f"{n}{f'.{v.version}' if v is not versions[-1] else ''}.avsc"
        for n, versions in history.items()
        for v in versions
    }
    if files != {path.name for path in folder.glob("*.avsc")}:
        found.append("files and list differ")
    ids = [version.id for versions in history.values() for version in versions]
    if len(set(ids)) != len(ids):
        found.append("an id is there twice")
    for name, versions in history.items():
        for version in versions:
            content = json.loads(version.text)
            if fingerprint(content) != version.fingerprint:
                found.append(f"{name} version {version.version} changed: give it a new version and id")
            if '"enum"' in version.text:
                found.append(f"{name} has an enum: an unknown symbol would be an error or bent; use a string")
        for old, new in combinations(versions, 2):
            found += [f"{name} {old.version} and {new.version}: {m}" for m in differences(old.text, new.text)]
    return found
