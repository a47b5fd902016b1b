"""Static API keys: made once, shown once, kept as hashes; and the list of what was revoked.

A key reads `bgk_ID_SECRET`. The id finds the entry, so that a key nobody made costs no hashing; the secret is 32 random
bytes, of which scrypt's hash with a salt of its own is kept. Nobody can guess such a secret, so the hash is a light
one: it guards a file that leaked, and must not keep others waiting while it is computed.

Keys and revocations lie in one object, `auth/keys.json` of the state, so that all processes see both change at once.
Several keys may have one name: that is how a user's key is replaced without a pause.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final

from runtime.auth_rules import Role
from runtime.errors import InputError, MissingServiceError
from runtime.object_store import ObjectStore

FILE: Final = "auth/keys.json"

PREFIX: Final = "bgk"
SECRET_BYTES: Final = 32
SALT_BYTES: Final = 16

SCRYPT: Final = {"n": 1 << 12, "r": 8, "p": 1, "dklen": 32}
"""Cost of one hash: 4 MiB and some 10 ms, which a gateway's loop may wait for once in a while."""

NAME_CHARS_MAX: Final = 80
TRIES_MAX: Final = 20
"""Times that a change is tried against others' changes. People make keys; twenty at once is a script gone wild."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret.

    Attributes:
        id: 12 hex digits, in the key's text.
        name: the user who has it.
        role: what he may do.
        salt, hash: of the secret, hex.
        created_ns: when it was made, ns since the epoch, UTC.
        expires_ns: when it ends; None: never.
        revoked_ns: when it was revoked; None: it was not.
    """

    id: str
    name: str
    role: str
    salt: str
    hash: str
    created_ns: int
    expires_ns: int | None = None
    revoked_ns: int | None = None

    def fits(self, secret: str) -> bool:
        """Whether a secret is this key's; takes as long for a wrong one."""
        return hmac.compare_digest(_hash(secret, self.salt), self.hash)


@dataclass(frozen=True, slots=True)
class Ring:
    """All keys, and what was revoked besides: ids of tokens (`jti`) that others issued."""

    keys: tuple[Key, ...] = ()
    tokens: tuple[str, ...] = ()

    def find(self, key_id: str) -> Key | None:
        """The key of an id."""
        return next((key for key in self.keys if key.id == key_id), None)

    def to_json(self) -> bytes:
        """The ring as it is stored."""
        document = {"version": 1, "keys": [asdict(k) for k in self.keys], "revoked_tokens": list(self.tokens)}
        return json.dumps(document, indent=2).encode()


def ring_from_json(data: bytes | None) -> Ring:
    """The ring that `Ring.to_json` wrote; an empty one for None.

    Raises:
        InputError: the object is damaged.
    """
    if data is None:
        return Ring()
    try:
        document = json.loads(data)
        keys = tuple(Key(**entry) for entry in document["keys"])
        tokens = tuple(str(token) for token in document["revoked_tokens"])
        for key in keys:
            Role(key.role)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{FILE} of the state is damaged", remedy="put back a copy of it, or make the keys again"
        ) from error
    return Ring(keys, tokens)


def split(text: str) -> tuple[str, str] | None:
    """Id and secret of a key's text; None if it is none."""
    parts = text.split("_", 2)
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == PREFIX else None


class KeyStore:
    """The keys of an object store.

    Args:
        store: where the state lies.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self) -> Ring:
        """All keys as they stand.

        Raises:
            InputError: their object is damaged.
        """
        return ring_from_json(self._store.get(FILE))

    def add(self, name: str, role: Role, now_ns: int, expires_ns: int | None = None) -> tuple[Key, str]:
        """Make a key; it and its text, which is nowhere afterwards.

        Raises:
            InputError: the name is not one.
        """
        if not (0 < len(name) <= NAME_CHARS_MAX and name.isprintable()):
            raise InputError(
                f"{name[:NAME_CHARS_MAX]!r} cannot name a user", remedy=f"use 1 to {NAME_CHARS_MAX} letters"
            )
        secret, salt = secrets.token_urlsafe(SECRET_BYTES), secrets.token_hex(SALT_BYTES)
        key = Key(secrets.token_hex(6), name, role.value, salt, _hash(secret, salt), now_ns, expires_ns)
        self._change(lambda ring: replace(ring, keys=(*ring.keys, key)))
        return key, f"{PREFIX}_{key.id}_{secret}"

    def revoke(self, key_id: str, now_ns: int) -> Key:
        """End a key.

        Raises:
            InputError: there is no such key.
        """

        def revoked(ring: Ring) -> Ring:
            if ring.find(key_id) is None:
                raise InputError(f"there is no key {key_id!r}", remedy="see `barograph keys list`")
            return replace(ring, keys=tuple(_ended(key, now_ns) if key.id == key_id else key for key in ring.keys))

        found = self._change(revoked).find(key_id)
        assert found is not None, "it was there when the ring was written"
        return found

    def revoke_token(self, token_id: str) -> None:
        """End a token that somebody else issued, by its `jti`."""
        self._change(lambda ring: replace(ring, tokens=tuple(dict.fromkeys((*ring.tokens, token_id)))))

    def _change(self, change: Callable[[Ring], Ring]) -> Ring:
        for _ in range(TRIES_MAX):
            old = self._store.get(FILE)
            ring = change(ring_from_json(old))
            if self._store.swap(FILE, old, ring.to_json()):
                return ring
        raise MissingServiceError(f"{FILE} changes all the time", remedy="try again")


def _ended(key: Key, now_ns: int) -> Key:
    return key if key.revoked_ns is not None else replace(key, revoked_ns=now_ns)


def _hash(secret: str, salt: str) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), **SCRYPT).hex()
