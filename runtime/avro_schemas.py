"""The Avro schemas of the project with all their versions, and where to find those that others wrote.

    schemas/avro/gap.avsc      the newest version: what this release writes, and what it reads everything as
    schemas/avro/gap.1.avsc    an older version, kept for ever: some topic may still hold a value of it
    schemas/avro/ids.json      name → its versions in order, each an id and the fingerprint of its meaning

An id is given once and never again, so five bytes before a value name its writer's schema for all time. Ids are the
same wherever they are looked up: in this list, at the api, and in a registry of yours, where `barograph topics apply`
puts the schemas *under these ids*. So the bytes on a topic do not depend on which registry someone uses. An id that is
not in the list was given by someone else; its schema is fetched from the registry that `look_in` named, once.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import fastavro

from runtime.errors import InputError

History = Mapping[str, tuple["AvroSchema", ...]]
"""Name → versions, oldest first."""

IDS: Final = "ids.json"


class UnknownSchemaError(InputError):
    """A value names a schema id that nobody knows.

    Args:
        schema_id: the id.
    """

    def __init__(self, schema_id: int) -> None:
        self.schema_id = schema_id
        super().__init__(
            f"Avro schema id {schema_id} is known neither here nor in the registry",
            remedy="set BAROGRAPH_REGISTRY_URL to the registry of whoever wrote it",
        )


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """One version of one schema.

    Attributes:
        name: short name, as in `schemas/avro/NAME.avsc`.
        version: 1, 2, … among those of its name.
        id: number in Confluent's wire format, unique among all schemas and versions.
        fingerprint: of its meaning, as the list states it; a test compares.
        text: the schema as its file has it.
    """

    name: str
    version: int
    id: int
    fingerprint: str
    text: str

    @property
    def record(self) -> str:
        """Full name of the record, such as `barograph.Gap`."""
        content = json.loads(self.text)
        return f"{content['namespace']}.{content['name']}"


def meaning(schema: Any) -> Any:
    """A schema without its texts for people: two with equal meaning are the same to every reader and writer."""
    if isinstance(schema, list):
        return [meaning(part) for part in schema]
    if isinstance(schema, dict):
        return {key: meaning(value) for key, value in schema.items() if key != "doc"}
    return schema


def fingerprint(schema: Any) -> str:
    """sha256 of the meaning, hex; spelling, order of keys and texts do not count."""
    return sha256(json.dumps(meaning(schema), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_history(folder: Traversable) -> History:
    """All versions of all schemas in a folder of the form above."""
    listed: dict[str, list[dict[str, Any]]] = json.loads((folder / IDS).read_text())
    return {
        name: tuple(
            AvroSchema(
                name,
                number,
                int(entry["id"]),
                str(entry["fingerprint"]),
                (folder / (f"{name}.avsc" if number == len(entries) else f"{name}.{number}.avsc")).read_text(),
            )
            for number, entry in enumerate(entries, 1)
        )
        for name, entries in listed.items()
    }


@cache
def history() -> History:
    """The schemas of this release."""
    return read_history(resources.files("schemas") / "avro")


def latest(name: str) -> AvroSchema:
    """The version that this release writes."""
    return history()[name][-1]


def by_id(schema_id: int) -> AvroSchema | None:
    """The schema of ours that has this id; None if it is none of ours."""
    return next((v for versions in history().values() for v in versions if v.id == schema_id), None)


@cache
def reader_schema(name: str) -> Any:
    """The newest version of `name`, parsed."""
    return fastavro.parse_schema(json.loads(latest(name).text))


@cache
def writer_schema(schema_id: int) -> Any:
    """The schema that a value was written with, parsed; asked for once per process and id.

    Raises:
        UnknownSchemaError: nobody knows the id.
        MissingServiceError: it is not ours, and the registry does not answer: a later try may succeed.
    """
    ours = by_id(schema_id)
    text = ours.text if ours else _fetch(schema_id)
    if text is None:
        raise UnknownSchemaError(schema_id)
    return fastavro.parse_schema(json.loads(text))


def look_in(fetch: Callable[[int], str | None]) -> None:
    """Name what finds schemas that are not ours; said once, at the start of a process.

    Args:
        fetch: id → the schema's text, or None if it is not there.
    """
    global _fetch
    _fetch = fetch
    writer_schema.cache_clear()


def _nowhere(_schema_id: int) -> str | None:
    return None


_fetch: Callable[[int], str | None] = _nowhere
