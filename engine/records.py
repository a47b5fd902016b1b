"""What an array of records must be before it reaches a kernel."""

from typing import Final

import numpy as np

from engine._jit import kernel
from engine.errors import BadRecordsError
from engine.state import MBO_KERNEL_DTYPE
from schemas.mbo import MBO_BYTES, MBO_DTYPE, MBO_RTYPE

_LENGTH: Final = MBO_BYTES // 4


@kernel
def _first_bad(records: np.ndarray) -> int:
    """Index of the first record of another type, length or instrument than the first should have; -1 if none."""
    for i in range(len(records)):
        record = records[i]
        if record.rtype != MBO_RTYPE or record.length != _LENGTH:
            return i
        if record.instrument_id != records[0].instrument_id:
            return i
    return -1


def kernel_view(records: np.ndarray) -> np.ndarray:
    """The same memory as kernels take it: MBO_KERNEL_DTYPE, read-only, so that one compiled kernel serves all."""
    view = records.view(MBO_KERNEL_DTYPE)
    view.flags.writeable = False
    return view


def validate(records: np.ndarray) -> np.ndarray:
    """Check that records can be applied.

    Args:
        records: One-dimensional contiguous array of `schemas.mbo.MBO_DTYPE`, of one instrument.

    Returns:
        The same memory, for kernels.

    Raises:
        BadRecordsError: with the index of the first bad record, or -1 for the array itself.
    """
    if not isinstance(records, np.ndarray) or records.dtype != MBO_DTYPE:
        found = getattr(records, "dtype", type(records).__name__)
        raise BadRecordsError(-1, f"records are {found}; expected an array of MBO_DTYPE")
    if records.ndim != 1 or not records.flags.c_contiguous:
        raise BadRecordsError(-1, "records are not a contiguous one-dimensional array")
    view = kernel_view(records)
    bad = _first_bad(view)
    if bad >= 0:
        record, first = view[bad], view[0]
        if record["rtype"] != MBO_RTYPE or record["length"] != _LENGTH:
            what = f"rtype {record['rtype']}, length {record['length']}; an MBO record has {MBO_RTYPE}, {_LENGTH}"
        else:
            what = f"instrument {record['instrument_id']} after {first['instrument_id']}; a call takes one instrument"
        raise BadRecordsError(int(bad), what)
    return view
