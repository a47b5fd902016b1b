"""Serving versions: what a published view of the data consists of, under a name that never changes its meaning.

    serving/versions/ID.json      a version: the subscriptions it describes; written once, never again
    serving/aliases/NAME.json     the version that a name stands for now; pointed elsewhere all at once

A client that connects with `?serving=NAME` gets the subscriptions of that version without naming a tape, a line or a
field, so what is shown can be moved to another line, and back, without touching a client. An id is made of the
version's content: the same content has one id, and another content cannot take it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from runtime.errors import InputError
from runtime.object_store import ObjectStore
from schemas.names import is_name

SUBSCRIPTIONS_MAX: Final = 16
"""Subscriptions of one version: as many as one connection may have."""

ID_CHARS: Final = 16
"""Hex digits of an id: no two of a few thousand versions meet by chance."""

_ROOT: Final = "serving"


@dataclass(frozen=True, slots=True)
class ServingVersion:
    """A published version.

    Attributes:
        id: hash of its content.
        note: what it is, for people.
        subscriptions: messages of protocol `barograph.v1`, `op` and `id` left out, in the order of their ids from 1.
    """

    id: str
    note: str
    subscriptions: tuple[Mapping[str, Any], ...]

    def messages(self) -> list[dict[str, Any]]:
        """The `subscribe` messages that a client would send."""
        return [{"op": "subscribe", "id": n, **asked} for n, asked in enumerate(self.subscriptions, 1)]


def make_version(subscriptions: Sequence[Mapping[str, Any]], note: str = "") -> ServingVersion:
    """A version of these subscriptions.

    Raises:
        InputError: none, too many, or one that is no message.
    """
    if not 0 < len(subscriptions) <= SUBSCRIPTIONS_MAX:
        raise _wrong(f"it has {len(subscriptions)} subscriptions, and may have 1 to {SUBSCRIPTIONS_MAX}")
    for asked in subscriptions:
        if not isinstance(asked, Mapping) or {"op", "id"} & set(asked):
            raise _wrong("a subscription is an object of the fields of `subscribe`, without `op` and `id`")
    content = _content(subscriptions, note)
    return ServingVersion(sha256(content).hexdigest()[:ID_CHARS], note, tuple(dict(s) for s in subscriptions))


def parse_version(data: bytes) -> ServingVersion:
    """The version that a file holds.

    Raises:
        InputError: it is no version.
    """
    try:
        known = json.loads(data)
        return make_version(known["subscriptions"], str(known.get("note", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _wrong(str(error)) from error


def _content(subscriptions: Sequence[Mapping[str, Any]], note: str) -> bytes:
    known = {"note": note, "subscriptions": [dict(s) for s in subscriptions]}
    return json.dumps(known, sort_keys=True, indent=2).encode()


def _wrong(reason: str) -> InputError:
    return InputError(f"this is no serving version: {reason}", remedy="see docs/gateway.md, serving versions")


class ServingStore:
    """The versions and aliases of an object store.

    Args:
        store: where they lie.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def publish(self, version: ServingVersion) -> str:
        """Write a version, unless it is there; its id."""
        self._store.put_new(self._file(version.id), _content(version.subscriptions, version.note))
        return version.id

    def point(self, alias: str, version_id: str) -> None:
        """Let an alias stand for a version from now on.

        Raises:
            InputError: the name is not legal, or there is no such version.
        """
        if not is_name(alias) or self.load(alias) is not None:
            raise InputError(f"{alias!r} cannot name a serving alias", remedy="use up to 40 of a-z, 0-9 and '-'")
        if self.load(version_id) is None:
            raise InputError(f"there is no serving version {version_id}", remedy="publish it first")
        self._store.put(f"{_ROOT}/aliases/{alias}.json", json.dumps({"version": version_id}).encode())

    def versions(self) -> list[str]:
        """Ids of all versions, in order."""
        return self._listed("versions")

    def aliases(self) -> dict[str, str]:
        """Alias → version, in the order of names."""
        return {name: version for name in self._listed("aliases") if (version := self._alias(name)) is not None}

    def load(self, version_id: str) -> ServingVersion | None:
        """A version; None if there is none of that id.

        Raises:
            InputError: its file is damaged.
        """
        data = self._store.get(self._file(version_id)) if is_name(version_id) else None
        if data is None:
            return None
        version = parse_version(data)
        if version.id != version_id:
            raise InputError(f"serving version {version_id} was changed", remedy="publish it anew, under its own id")
        return version

    def resolve(self, name: str) -> ServingVersion | None:
        """The version that a client means by an id or an alias; None if there is none.

        Raises:
            InputError: a file is damaged, or an alias stands for a version that is gone.
        """
        version = self.load(name)
        if version is not None or not is_name(name):
            return version
        target = self._alias(name)
        if target is None:
            return None
        version = self.load(target)
        if version is None:
            raise InputError(f"serving alias {name} stands for {target}, which is gone", remedy="point it elsewhere")
        return version

    def _alias(self, name: str) -> str | None:
        data = self._store.get(f"{_ROOT}/aliases/{name}.json")
        if data is None:
            return None
        try:
            return str(json.loads(data)["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"the file of serving alias {name} is damaged", remedy="point it anew") from error

    def _listed(self, kind: str) -> list[str]:
        prefix = f"{_ROOT}/{kind}/"
        return sorted(n.removeprefix(prefix).removesuffix(".json") for n in self._store.names(prefix))

    @staticmethod
    def _file(version_id: str) -> str:
        return f"{_ROOT}/versions/{version_id}.json"
