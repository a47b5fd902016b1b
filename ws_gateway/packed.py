"""Rows in one piece of memory, read as a table.

Rings hold tens of thousands of small messages. As a dict of arrays, a bin of radius 50 takes 98 kB for 18 kB of
numbers: 64 arrays, each with its header and with the Arrow buffer that it looks into. Packed it is one array of rows,
and a column is looked at when it is asked for, which takes a fifth of a microsecond.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from schemas.columns import Table, table_rows

BLOCK_BYTES: Final = 640
"""What a packed block takes beside its rows: the block, its array, numbers, and places in queues (530 to 536 as Python
counts, and what the allocator adds). Blocks of a trade or two are mostly that; a budget that did not count it would be
exceeded several times over."""

ARRAY_BYTES: Final = 144
"""What a column of one value takes in a table that is not packed (gaps 138, events 112): those have texts."""


class Packed(Mapping[str, np.ndarray]):
    """A table whose rows lie side by side; read only.

    Args:
        rows: structured array, one field a column, vectors as subarrays.

    Attributes:
        array: the rows.
        rows: how many.
        nbytes: memory that it holds.
    """

    __slots__ = ("array", "nbytes", "rows")

    def __init__(self, rows: np.ndarray) -> None:
        rows.flags.writeable = False
        self.array, self.rows = rows, len(rows)
        self.nbytes = BLOCK_BYTES + rows.nbytes

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            column: np.ndarray = self.array[name]
        except ValueError:
            raise KeyError(name) from None
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self.array.dtype.names or ())

    def __len__(self) -> int:
        return len(self.array.dtype.names or ())


def pack(table: Table, row: np.dtype) -> Packed:
    """A copy of a table, packed.

    Args:
        table: columns as arrays of the same length.
        row: dtype of a row, with a field for each column; `schemas.columns.row_dtype` makes it.
    """
    rows = np.empty(table_rows(table), row)
    for name, values in table.items():
        rows[name] = values
    return Packed(rows)
