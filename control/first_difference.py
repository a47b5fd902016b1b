"""The first row in which two streams of rows differ, however each was cut into tables. Pure; bits are compared.

Two NaN of the same bits are equal here, and 0.0 differs from -0.0: the content hashes say the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.columns import Column, Table, slice_table, table_rows


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A column whose values differ in a row.

    Attributes:
        column: its name.
        element: index within a vector; -1 for a scalar.
        elements: how many elements of a vector differ; 1 for a scalar.
        left, right: both values, of the first element that differs.
    """

    column: str
    element: int
    elements: int
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class RowDifference:
    """The first row that differs.

    Attributes:
        row: its number among the instrument's rows, from 0.
        left, right: its scalars on either side; None where that side has ended.
        columns: what differs; empty where one side has ended.
    """

    row: int
    left: dict[str, Any] | None
    right: dict[str, Any] | None
    columns: tuple[ColumnDifference, ...]

    def value(self, column: str) -> Any:
        """A scalar of the row, from the side that has it."""
        return (self.left if self.left is not None else self.right or {}).get(column)


def first_difference(left: Iterable[Table], right: Iterable[Table], columns: Sequence[Column]) -> RowDifference | None:
    """Step through both streams together; None if all rows are equal and both have as many."""
    rows = 0
    for mine, theirs in _in_step(left, right):
        if mine is None or theirs is None:
            first = [_scalars(side, 0, columns) if side is not None else None for side in (mine, theirs)]
            return RowDifference(rows, first[0], first[1], ())
        found = _first_unequal(mine, theirs, columns)
        if found is not None:
            details = tuple(d for c in columns if (d := _column(c, mine[c.name][found], theirs[c.name][found])))
            return RowDifference(
                rows + found, _scalars(mine, found, columns), _scalars(theirs, found, columns), details
            )
        rows += table_rows(mine)
    return None


def _in_step(left: Iterable[Table], right: Iterable[Table]) -> Iterator[tuple[Table | None, Table | None]]:
    """Pairs of tables with the same number of rows; None on the side that has ended first."""
    sides = [(t for t in side if table_rows(t)) for side in (left, right)]
    mine, theirs = next(sides[0], None), next(sides[1], None)
    while mine is not None and theirs is not None:
        size = min(table_rows(mine), table_rows(theirs))
        yield slice_table(mine, 0, size), slice_table(theirs, 0, size)
        mine = slice_table(mine, size, table_rows(mine)) if table_rows(mine) > size else next(sides[0], None)
        theirs = slice_table(theirs, size, table_rows(theirs)) if table_rows(theirs) > size else next(sides[1], None)
    if mine is not None or theirs is not None:
        yield mine, theirs


def _bits(column: Column, values: np.ndarray) -> np.ndarray:
    """Values as bytes, shape (rows, bytes)."""
    array = np.ascontiguousarray(values, column.numpy_dtype)
    return array.view(np.uint8).reshape(len(array), -1)


def _first_unequal(mine: Table, theirs: Table, columns: Sequence[Column]) -> int | None:
    firsts = []
    for c in columns:
        unequal = (_bits(c, mine[c.name]) != _bits(c, theirs[c.name])).any(axis=1)
        if unequal.any():
            firsts.append(int(unequal.argmax()))
    return min(firsts, default=None)


def _column(column: Column, mine: Any, theirs: Any) -> ColumnDifference | None:
    """How one column differs in one row; None if it does not."""
    left, right = np.atleast_1d(mine), np.atleast_1d(theirs)
    unequal = np.flatnonzero((_bits(column, left) != _bits(column, right)).any(axis=1))
    if not len(unequal):
        return None
    at = int(unequal[0])
    return ColumnDifference(column.name, at if column.width else -1, len(unequal), left[at].item(), right[at].item())


def _scalars(table: Table, row: int, columns: Sequence[Column]) -> dict[str, Any]:
    return {c.name: table[c.name][row].item() for c in columns if not c.width}
