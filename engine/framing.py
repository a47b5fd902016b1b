"""How states lie in bytes: a head, sections with their sizes, a hash; the same for an engine and for gold.

    magic (16 bytes) | format (u32) | size (u64), section | size (u64), section | ... | SHA-256 of all before

Little-endian. Equal sections give equal bytes, and no damage passes: cut, changed and foreign bytes are all refused.
"""

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from engine.errors import SnapshotError

_HEAD: Final = struct.Struct("<16sI")
_SIZE: Final = struct.Struct("<Q")
_HASH_BYTES: Final = 32


def pack(what: str, version: int, parts: Iterable[bytes]) -> bytes:
    """Sections as one piece.

    Args:
        what: Whose state it is, in a word of at most 6 letters; the magic is `barograph-` and this word.
        version: Format of the sections.
        parts: The sections.

    Returns:
        The bytes, for `unpack` with the same word and version.
    """
    body = _HEAD.pack(f"barograph-{what}".encode(), version) + b"".join(_SIZE.pack(len(p)) + p for p in parts)
    return body + sha256(body).digest()


def unpack(what: str, version: int, data: bytes) -> list[bytes]:
    """The sections that `pack` was given, after all checks.

    Args:
        what: Whose state it must be.
        version: Format that is understood.
        data: Bytes of `pack`.

    Returns:
        The sections.

    Raises:
        SnapshotError: the bytes are no such state, damaged, or of another version.
    """
    body, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if len(body) < _HEAD.size or _HEAD.unpack_from(body)[0].rstrip(b"\0") != f"barograph-{what}".encode():
        raise SnapshotError(f"these bytes are no snapshot of barograph's {what}")
    found = _HEAD.unpack_from(body)[1]
    if found != version:
        raise SnapshotError(f"{what} snapshot of format {found}; this engine reads format {version}")
    if sha256(body).digest() != digest:
        raise SnapshotError(f"{what} snapshot is damaged: its hash does not match")
    parts, at = [], _HEAD.size
    while at < len(body):
        (size,) = _SIZE.unpack_from(body, at)
        at += _SIZE.size
        parts.append(body[at : at + size])
        at += size
    return parts
