"""Reading a DBN file: the thin shell around `zstd_frames` and `dbn_records`.

The file is read once, front to back, in pieces; its sha256 grows along. Compressed or not is told by the first bytes,
not by the name. Only reaching the end without an error proves that the file is whole.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from connectors.dbn_errors import (
    FETCH_AGAIN,
    DamagedFileError,
    FaultError,
    NotDbnError,
    TruncatedFileError,
    UnreadableFileError,
    UnsupportedFileError,
)
from connectors.dbn_metadata import DbnMetadata
from connectors.dbn_records import DbnStream, Run
from connectors.zstd_frames import MAGIC as ZSTD_MAGIC
from connectors.zstd_frames import FrameError, ZstdFrames

READ_BYTES: Final = 1 << 20
"""Bytes per read; a disk gives its best from about 256 KiB on."""

_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
_DBZ_AT = slice(8, 11)

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in the file)."""


class DbnFile:
    """One DBN file, open for a single pass.

    Args:
        path: the file.
        on_progress: called after each read.

    Attributes:
        path: the file, as given.
        size_bytes: its length.
        read_bytes: bytes read so far.
        compressed: whether it is zstd.

    Raises:
        DbnError: there is no such file, or it is a folder.
    """

    def __init__(self, path: Path | str, on_progress: Progress | None = None) -> None:
        self.path = str(path)
        self._on_progress = on_progress
        self._hash = hashlib.sha256()
        self._frames = ZstdFrames()
        self._stream = DbnStream()
        self.read_bytes = 0
        self.compressed = False
        self._file = self._open(Path(path))
        self.size_bytes = Path(path).stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def metadata(self) -> DbnMetadata:
        """The head of the file; known from the first run on, and at the end of a file without records."""
        assert self._stream.metadata is not None, "nothing was read yet"
        return self._stream.metadata

    @property
    def sha256(self) -> str:
        """Hash of the bytes read so far, hex."""
        return self._hash.hexdigest()

    @property
    def frames(self) -> int:
        """Zstd frames that ended properly so far; 0 for a plain file."""
        return self._frames.frames

    @property
    def records(self) -> int:
        """Records handed on so far, of all types."""
        return self._stream.records

    def runs(self) -> Iterator[Run]:
        """Every record, as runs in file order.

        Raises:
            DbnError: the file is not a whole DBN file; runs handed on before are what stands before that place.
        """
        try:
            for piece in self._plain():
                yield from self._stream.feed(piece)
            yield from self._stream.finish()
        except FaultError as fault:
            raise fault.about(self.path) from fault
        except FrameError as error:
            raise self._frame_fault(error).about(self.path) from error

    def _open(self, path: Path) -> BinaryIO:
        if path.is_dir():
            raise UnreadableFileError(self.path, "is a folder", "name the .dbn or .dbn.zst files in it")
        if path.exists() and not path.is_file():
            raise UnreadableFileError(self.path, "is not a regular file", "save the stream to a file first")
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise UnreadableFileError(self.path, "does not exist", "correct the path") from error
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            raise UnreadableFileError(self.path, reason, "check its permissions") from error

    def _plain(self) -> Iterator[bytes]:
        """The decompressed content."""
        first = self._read()
        self._refuse_at_sight(first)
        self.compressed = first.startswith((ZSTD_MAGIC, *_SKIPPABLE))
        piece = first
        while piece:
            if self.compressed:
                yield from self._frames.feed(piece)
            else:
                yield piece
            piece = self._read()
        if self.compressed:
            self._frames.finish()

    def _read(self) -> bytes:
        try:
            piece = self._file.read(READ_BYTES)
        except OSError as error:
            reason = f"cannot be read at byte {self.read_bytes} ({error.strerror or error})"
            raise UnreadableFileError(self.path, reason, "check the disk") from error
        self.read_bytes += len(piece)
        self._hash.update(piece)
        if self._on_progress is not None and piece:
            self._on_progress(self.read_bytes, self.size_bytes)
        return piece

    @staticmethod
    def _refuse_at_sight(first: bytes) -> None:
        if not first:
            raise FaultError(NotDbnError, "is empty: it has 0 bytes", FETCH_AGAIN, offset=0)
        if first.startswith(_SKIPPABLE) and first[_DBZ_AT] == b"DBZ":
            raise FaultError(
                NotDbnError,
                "is a legacy .dbz file, the format before DBN",
                "convert it: dbn FILE.dbz --dbn -o FILE.dbn, or request the data anew",
                offset=0,
            )
        if len(first) < len(ZSTD_MAGIC) and ZSTD_MAGIC.startswith(first):
            raise FaultError(
                TruncatedFileError, f"ends at byte {len(first)} inside its first zstd frame", offset=len(first)
            )

    def _frame_fault(self, error: FrameError) -> FaultError:
        if error.ended:
            return FaultError(TruncatedFileError, f"is cut: {error.reason}", offset=error.offset)
        if error.outsized:
            remedy = "compress it again without --long or --ultra"
            return FaultError(
                UnsupportedFileError, f"cannot be decompressed: {error.reason}", remedy, offset=error.offset
            )
        return FaultError(DamagedFileError, f"is damaged at byte {error.offset}: {error.reason}", offset=error.offset)
