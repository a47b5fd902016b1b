"""What an array of records must be before it may change an engine.

The array is looked at in Python, its records by the kernel that applies them, before it applies the first: a call that
is refused has changed nothing.
"""

from typing import Final

import numpy as np

from engine._jit import kernel
from engine.errors import BadRecordsError
from engine.state import NONE
from schemas.mbo import MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.units import UNDEF_SIZE

_LENGTH: Final = MBO_BYTES // 4
_SIZE_MAX: Final = (1 << 31) - 1
"""Larger sizes, all but "undefined", are negative ones that were stored as unsigned: no venue takes orders of two
thousand million lots, and one such order would drown every depth it is summed into."""


@kernel
def first_bad(records: np.ndarray, start: int) -> int:
    """Index of the first record (MBO_KERNEL_DTYPE), from `start` on, that cannot be applied; NONE if all can.

    It can if it is an MBO record by `rtype` and `length` (DBN record header), has the `instrument_id` of records[0],
    and a size up to 2^31 - 1 or UNDEF_SIZE.
    """
    for i in range(start, len(records)):
        record = records[i]
        if (
            record.rtype != MBO_RTYPE
            or record.length != _LENGTH
            or record.instrument_id != records[0].instrument_id
            or (record.size > _SIZE_MAX and record.size != UNDEF_SIZE)
        ):
            return i
    return NONE


def check_array(records: np.ndarray) -> None:
    """Check that an object is an array of records.

    Args:
        records: One-dimensional contiguous array of `schemas.mbo.MBO_DTYPE`.

    Raises:
        BadRecordsError: it is not; with index -1.
    """
    if not isinstance(records, np.ndarray) or (records.dtype is not MBO_DTYPE and records.dtype != MBO_DTYPE):
        found = getattr(records, "dtype", type(records).__name__)
        raise BadRecordsError(-1, f"records are {found}; expected an array of MBO_DTYPE")
    if records.ndim != 1 or not records.flags.c_contiguous:
        raise BadRecordsError(-1, "records are not a contiguous one-dimensional array")


def complaint(records: np.ndarray, bad: int) -> BadRecordsError:
    """The error for a record that `first_bad` found.

    Args:
        records: Array of `schemas.mbo.MBO_DTYPE`, as given to the engine.
        bad: Index of the bad one.

    Returns:
        The error, to be raised: it names the record and what is wrong with it.
    """
    record, first = records[bad], records[0]
    if record["rtype"] != MBO_RTYPE or record["length"] != _LENGTH:
        what = f"rtype {record['rtype']}, length {record['length']}; an MBO record has {MBO_RTYPE}, {_LENGTH}"
    elif record["instrument_id"] != first["instrument_id"]:
        what = f"instrument {record['instrument_id']} after {first['instrument_id']}; a call takes one instrument"
    else:
        what = f"size {record['size']}, a negative size ({int(record['size']) - (1 << 32)}) stored as unsigned"
    return BadRecordsError(bad, what)
