"""Zstandard frames, walked block by block: the decompressor that cannot be fooled by a cut file.

The usual stream readers return what they have when a file ends in the middle of a frame, so a cut file reads as a
shorter good one. This one follows the frame format itself (RFC 8878): a frame is a header, blocks with three-byte
headers, and an optional checksum, so at each byte it is known whether a frame is open. The bytes of each block go
through libzstd one block at a time, and a block holds at most 128 KiB once decompressed: a small file that would
unfold to gigabytes unfolds in pieces of that size.

Frames may follow each other (one stream cut into frames, as Databento writes), skippable frames are passed over, and
anything else between or after frames is an error with its place. No I/O here: bytes in, bytes out.
"""

from collections.abc import Iterator
from typing import Final

import zstandard

MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""First bytes of a frame."""

_SKIPPABLE_LOW, _SKIPPABLE_HIGH = 0x184D2A50, 0x184D2A5F

WINDOW_BYTES_MAX: Final = 128 << 20
"""Largest history that a frame may ask us to hold, bytes: the format's own recommendation for readers, and what the
`zstd` program accepts unless told otherwise. Below 8 MiB, files of the highest ordinary levels would be refused; above,
a hostile header decides how much memory we take."""

_HEADER_BYTES_MAX: Final = 18


class FrameError(ValueError):
    """The bytes are not whole zstd frames.

    Attributes:
        offset: byte in the compressed stream where the fault lies.
        reason: what is wrong, as the end of a sentence about the file.
        ended: the bytes are good but end too early.
        outsized: the bytes are good but ask for more memory than we give.
    """

    def __init__(self, offset: int, reason: str, *, ended: bool = False, outsized: bool = False) -> None:
        self.offset, self.reason, self.ended, self.outsized = offset, reason, ended, outsized
        super().__init__(f"at byte {offset}: {reason}")


class ZstdFrames:
    """Decompresses a sequence of frames that arrives in pieces of any size.

    Attributes:
        frames: frames that ended properly so far, skippable ones not counted.
        offset: bytes of the stream consumed so far.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.offset = 0
        self._buffer = bytearray()
        self._frame_start = 0
        self._in_frame = False
        self._skip = 0
        self._checksum = False
        self._decoder: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Plain bytes of everything that `data` completes, in pieces of at most 128 KiB.

        Raises:
            FrameError: the bytes so far cannot be the beginning of whole frames.
        """
        self._buffer += data
        while True:
            if self._skip:
                self._pass_over()
            step = self._block() if self._in_frame else self._header()
            if step is None:
                return
            if step:
                yield step

    def finish(self) -> None:
        """Say that no more bytes come.

        Raises:
            FrameError: the last frame has not ended.
        """
        end = self.offset + len(self._buffer)
        if self._in_frame or self._skip or self._buffer:
            start = self._frame_start if self._in_frame or self._skip else self.offset
            raise FrameError(
                end, f"it ends at byte {end} inside the zstd frame that begins at byte {start}", ended=True
            )

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.offset += count
        return taken

    def _pass_over(self) -> None:
        self._skip -= len(self._take(min(self._skip, len(self._buffer))))

    def _header(self) -> bytes | None:
        """Start the next frame; None if more bytes are needed, else the empty plain text of a header."""
        have = self._buffer
        if self._skip or len(have) < 5:
            self._refuse_foreign(bytes(have[:4]))
            return None
        self._refuse_foreign(bytes(have[:4]))
        self._frame_start = self.offset
        if _SKIPPABLE_LOW <= int.from_bytes(have[:4], "little") <= _SKIPPABLE_HIGH:
            if len(have) < 8:
                return None
            self._skip = int.from_bytes(self._take(8)[4:], "little")
            return b""
        size = _header_bytes(have[4])
        if len(have) < size:
            return None
        self._start_frame(bytes(have[:size]))
        self._take(size)
        return b""

    def _start_frame(self, header: bytes) -> None:
        try:
            known = zstandard.get_frame_parameters(header.ljust(_HEADER_BYTES_MAX, b"\0"))
        except zstandard.ZstdError as error:
            raise FrameError(self.offset, f"the header of a zstd frame is damaged ({error})") from error
        if known.window_size > WINDOW_BYTES_MAX:
            size = f"{known.window_size >> 20} MiB, more than {WINDOW_BYTES_MAX >> 20} MiB"
            raise FrameError(self.offset, f"a zstd frame needs a window of {size}", outsized=True)
        self._checksum = bool(known.has_checksum)
        self._decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
        self._decode(header, self.offset)
        self._in_frame = True

    def _refuse_foreign(self, head: bytes) -> None:
        """Raise if these first bytes, four or fewer, cannot begin a frame."""
        plain = MAGIC.startswith(head)
        skippable = not head or (0x50 <= head[0] <= 0x5F and b"\x2a\x4d\x18".startswith(head[1:]))
        if not plain and not skippable:
            place = "after its last zstd frame" if self.frames else "where a zstd frame must begin"
            raise FrameError(self.offset, f"it has other bytes {place}")

    def _block(self) -> bytes | None:
        """Decode the next block, with the checksum after the last one; None if more bytes are needed."""
        if len(self._buffer) < 3:
            return None
        header = int.from_bytes(self._buffer[:3], "little")
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or (kind != 1 and size > 128 << 10):
            raise FrameError(self.offset, "a zstd block header is damaged")
        whole = 3 + (1 if kind == 1 else size) + (4 if is_last and self._checksum else 0)
        if len(self._buffer) < whole:
            return None
        place = self.offset
        plain = self._decode(self._take(whole), place)
        if is_last:
            if self._decoder is None or not self._decoder.eof:
                raise FrameError(place, "a zstd frame does not end with its last block")
            self.frames += 1
            self._in_frame, self._decoder = False, None
        return plain

    def _decode(self, piece: bytes, place: int) -> bytes:
        assert self._decoder is not None
        try:
            return bytes(self._decoder.decompress(piece))
        except zstandard.ZstdError as error:
            reason = str(error).removeprefix("zstd decompressor error: ")
            raise FrameError(place, f"a zstd block does not decode ({reason})") from error


def _header_bytes(descriptor: int) -> int:
    """Bytes of a frame header, magic included, from its descriptor byte (RFC 8878, 3.1.1.1)."""
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 5 + (1 - single_segment) + dictionary + content
