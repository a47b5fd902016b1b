"""Our schemas in a registry of the user's, under the ids that they have everywhere.

Ids travel in every value, so they cannot be what a registry happens to give: the same tape would have other bytes
beside another registry. Confluent's interface has a mode for just this, `IMPORT`, in which a version is registered with
the id it has elsewhere. Where an id is taken by someone's schema, nothing is written there and the remedy is a context,
a part of a registry with ids of its own, that is named in the address: `http://host:port/contexts/.barograph`.
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from control.registry import subjects
from runtime.avro_schemas import AvroSchema, fingerprint, history
from runtime.errors import InputError
from runtime.registry_client import RegistryClient

HAS_NO_SUCH_SCHEMA: Final = 404


class RegistryRefusedError(InputError):
    """A registry does not take a schema of ours under its id.

    Args:
        subject: the subject.
        schema: the schema.
        reason: what the registry says, or what is there instead.
    """

    def __init__(self, subject: str, schema: AvroSchema, reason: str) -> None:
        self.subject, self.schema, self.reason = subject, schema, reason
        super().__init__(
            f"the registry does not take version {schema.version} of {subject} under id {schema.id} ({reason})",
            remedy="give barograph a context of its own: end the address with /contexts/.barograph",
        )


def publish(registry: RegistryClient, tape: str, line: str) -> dict[str, int]:
    """See to it that the registry has every version of every schema on the topics of a tape and line.

    Returns:
        Subject → id of its newest version.

    Raises:
        RegistryRefusedError: it has, or gives, another id; what was registered before stays and is right.
        MissingServiceError: it does not answer.
    """
    wanted = subjects([(tape, line)])
    for schema in (schema for versions in history().values() for schema in versions):
        _check_free(registry, schema)
    for subject, name in wanted.items():
        missing = [schema for schema in history()[name] if not _has(registry, subject, schema)]
        if missing:
            _import(registry, subject, missing)
    return {subject: history()[name][-1].id for subject, name in wanted.items()}


def _check_free(registry: RegistryClient, schema: AvroSchema) -> None:
    """Before anything is written: an id is either free there, or ours."""
    there = registry.schema(schema.id)
    if there is not None and fingerprint(json.loads(there)) != schema.fingerprint:
        raise RegistryRefusedError(schema.record, schema, "the id is another schema there")


def _has(registry: RegistryClient, subject: str, schema: AvroSchema) -> bool:
    status, answer = registry.ask("POST", f"/subjects/{quote(subject, safe='')}", {"schema": schema.text})
    if status == HAS_NO_SUCH_SCHEMA:
        return False
    _must(status == 200, subject, schema, answer)
    if answer["id"] != schema.id:
        raise RegistryRefusedError(subject, schema, f"it has it under id {answer['id']}")
    return True


def _import(registry: RegistryClient, subject: str, missing: list[AvroSchema]) -> None:
    place = quote(subject, safe="")
    status, answer = registry.ask("PUT", f"/mode/{place}?force=true", {"mode": "IMPORT"})
    _must(status == 200, subject, missing[0], answer)
    try:
        for schema in missing:
            body = {"schema": schema.text, "id": schema.id, "version": schema.version}
            status, answer = registry.ask("POST", f"/subjects/{place}/versions", body)
            _must(status == 200 and answer.get("id") == schema.id, subject, schema, answer)
    finally:
        registry.ask("DELETE", f"/mode/{place}")  # back to the registry's own mode


def _must(good: bool, subject: str, schema: AvroSchema, answer: Mapping[str, Any]) -> None:
    if not good:
        raise RegistryRefusedError(subject, schema, str(answer.get("message") or answer))
