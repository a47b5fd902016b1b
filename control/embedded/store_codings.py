"""Content codings of HTTP bodies, as ClickHouse clients use them: lz4, zstd, gzip, deflate.

Requests are decoded whole and bounded, so that a small body cannot grow into all memory. Responses are encoded piece
by piece, so that a streamed answer stays a stream.
"""

import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import lz4.frame
import zstandard

from control.embedded.store_sql import LIMIT_EXCEEDED, NOT_IMPLEMENTED, refusal

OFFERED: Final = ("lz4", "zstd", "gzip", "deflate")
"""Codings that answers may have, best first: lz4 costs least on a loopback."""

_STEP_BYTES: Final = 4096
_GZIP, _ZLIB = 31, 15  # window bits that select the container in zlib


class Encoder(Protocol):
    """Encodes an answer piece by piece."""

    def compress(self, data: bytes) -> bytes:
        """The next piece, encoded; may be empty."""

    def flush(self) -> bytes:
        """What is left at the end."""


class _Lz4Encoder:
    def __init__(self) -> None:
        self._inner = lz4.frame.LZ4FrameCompressor()
        self._head: bytes = self._inner.begin()

    def compress(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + bytes(self._inner.compress(data))

    def flush(self) -> bytes:
        head, self._head = self._head, b""
        return head + bytes(self._inner.flush())


_ENCODERS: Final[dict[str, Callable[[], Any]]] = {
    "lz4": _Lz4Encoder,
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
    "gzip": lambda: zlib.compressobj(1, zlib.DEFLATED, _GZIP),
    "deflate": lambda: zlib.compressobj(1, zlib.DEFLATED, _ZLIB),
}


def choose(accepted: str) -> str | None:
    """The coding to answer with, from an `Accept-Encoding` header; None: as it is."""
    offered = {part.split(";")[0].strip().lower() for part in accepted.split(",")}
    return next((name for name in OFFERED if name in offered), None)


def encoder(name: str) -> Encoder:
    """A fresh encoder of one of `OFFERED`."""
    made: Encoder = _ENCODERS[name]()
    return made


def decode(data: bytes, coding: str, bytes_max: int) -> bytes:
    """A request body as it was before its coding.

    Raises:
        StoreError: unknown coding, damaged data, or more than `bytes_max` bytes.
    """
    if coding in ("", "identity"):
        return data
    decoder = _DECODERS.get(coding)
    if decoder is None:
        raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"Content-Encoding {coding!r} is not known here")
    try:
        out = decoder(data, bytes_max + 1)
    except (RuntimeError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise refusal(LIMIT_EXCEEDED, "LIMIT_EXCEEDED", f"Cannot decompress the {coding} body: {error}") from error
    if len(out) > bytes_max:
        raise refusal(LIMIT_EXCEEDED, "LIMIT_EXCEEDED", f"The body is longer than {bytes_max} bytes")
    return out


def _decode_lz4(data: bytes, limit: int) -> bytes:
    decoder = lz4.frame.LZ4FrameDecompressor()
    out = bytes(decoder.decompress(data, limit))
    if len(out) < limit and not decoder.eof:
        raise EOFError("it ends too early")
    return out


def _decode_zstd(data: bytes, limit: int) -> bytes:
    """Fed in small steps: the decoder has no bound of its own, and a step of 4 KiB grows to 128 MiB at most."""
    decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)
    out: list[bytes] = []
    size, rest = 0, memoryview(data)
    while size < limit and len(rest):
        step, rest = bytes(rest[:_STEP_BYTES]), rest[_STEP_BYTES:]
        out.append(decoder.decompress(step))
        size += len(out[-1])
        if decoder.eof:
            break
    if size < limit and not decoder.eof:
        raise EOFError("it ends too early")
    return b"".join(out)[:limit]


def _decode_zlib(bits: int) -> Callable[[bytes, int], bytes]:
    def run(data: bytes, limit: int) -> bytes:
        decoder = zlib.decompressobj(bits)
        out = decoder.decompress(data, limit)
        if len(out) < limit and not decoder.eof:
            raise EOFError("it ends too early")
        return out

    return run


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "lz4": _decode_lz4,
    "zstd": _decode_zstd,
    "gzip": _decode_zlib(_GZIP),
    "deflate": _decode_zlib(_ZLIB),
}
