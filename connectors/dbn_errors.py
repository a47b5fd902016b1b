"""What can be wrong with a DBN file, as types: each is one sentence with the place, and says what to do.

Parsers do no I/O and so do not know a file's name: they raise `FaultError`, and the shell that reads the file turns it
into one of the errors below with `FaultError.about(path)`.
"""

from typing import Final

from runtime.errors import InputError

FETCH_AGAIN: Final = "fetch the file again, and give its manifest.json with --manifest if there is one"


class DbnError(InputError):
    """A DBN file that cannot be used.

    Attributes:
        path: the file, as given.
        reason: what is wrong; the sentence is `path reason`.
        offset: byte where it is wrong; -1 where the place is the whole file.
        record: number of the record, from 0; -1 if none is concerned.
    """

    def __init__(self, path: str, reason: str, remedy: str, *, offset: int = -1, record: int = -1) -> None:
        self.path, self.reason, self.offset, self.record = path, reason, offset, record
        super().__init__(f"{path} {reason}", remedy=remedy)


class UnreadableFileError(DbnError):
    """There is no such file, it is a folder, or reading it failed."""


class NotDbnError(DbnError):
    """The file is something else: not DBN, a fragment without metadata, or the legacy `.dbz`."""


class TruncatedFileError(DbnError):
    """The file ends too early."""


class DamagedFileError(DbnError):
    """Bytes within the file are wrong."""


class UnsupportedFileError(DbnError):
    """The file asks for more than this release reads: a newer version, or an outsized window or metadata."""


class ManifestMismatchError(DbnError):
    """The file is not the one that the manifest describes."""


class WrongSchemaError(DbnError):
    """The file is whole but holds other records than MBO."""


class NoRecordsError(DbnError):
    """The file is whole and holds no record."""


class FaultError(Exception):
    """A fault found by a parser, which does not know the file's name.

    Attributes:
        error: the type it becomes.
        reason, remedy, offset, record: as in `DbnError`.
    """

    def __init__(
        self, error: type[DbnError], reason: str, remedy: str = FETCH_AGAIN, *, offset: int = -1, record: int = -1
    ) -> None:
        self.error, self.reason, self.remedy, self.offset, self.record = error, reason, remedy, offset, record
        super().__init__(reason)

    def about(self, path: str) -> DbnError:
        """The error about a file."""
        return self.error(path, self.reason, self.remedy, offset=self.offset, record=self.record)
