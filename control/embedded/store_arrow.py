"""Arrow answers in pieces: the engine gives each piece as a whole Arrow stream, a client wants one.

An Arrow IPC stream is messages: the schema, then batches, then an end mark of eight bytes. Each message begins with
FFFFFFFF and the length of its head (Arrow columnar format, "Encapsulated message format"). The schema has no body, so
where it ends can be read off; of every piece but the first it is left out, and of every piece the end mark. No input or
output here.
"""

import struct
from typing import Final

END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""End mark of a stream."""

_HEAD: Final = struct.Struct("<II")
_CONTINUES: Final = 0xFFFFFFFF


class PieceError(ValueError):
    """A piece is not an Arrow stream, or one of other columns than the first."""


class ArrowJoiner:
    """Makes one stream of many of the same columns."""

    def __init__(self) -> None:
        self._schema = b""

    def add(self, piece: bytes) -> bytes:
        """What of a piece comes next.

        Raises:
            PieceError: it is no whole Arrow stream, or its columns are others.
        """
        mark, size = _HEAD.unpack_from(piece) if len(piece) >= _HEAD.size else (0, 0)
        schema = piece[: _HEAD.size + size]
        if mark != _CONTINUES or not piece.endswith(END) or self._schema not in (b"", schema):
            raise PieceError(f"a piece of {len(piece)} bytes does not continue the stream")
        first, self._schema = not self._schema, schema
        return piece[: -len(END)] if first else piece[len(schema) : -len(END)]

    @property
    def begun(self) -> bool:
        """Whether there was a piece, and so a schema."""
        return bool(self._schema)
