"""Two streams of rows in step: found at the same row however they are cut, by bits and not by value."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control.first_difference import RowDifference, first_difference
from schemas.columns import Column, Table, concat_tables, empty_table, slice_table, table_rows

COLUMNS = (
    Column("bin_seq", "i8", "", ""),
    Column("px", "f8", "", ""),
    Column("mass", "f8", "", "", 3),
)


def table(rows: int) -> dict[str, np.ndarray]:
    made = empty_table(COLUMNS, rows)
    made["bin_seq"][:] = np.arange(rows)
    made["px"][:] = np.arange(rows) / 3
    made["mass"][:] = np.arange(rows)[:, None]
    return made


def cut(whole: Table, places: list[int]) -> Iterator[Table]:
    bounds = [0, *sorted(p % (table_rows(whole) + 1) for p in places), table_rows(whole)]
    for start, stop in pairwise(bounds):
        yield slice_table(whole, start, stop)


cuts = st.lists(st.integers(0, 100), max_size=5)


@given(st.integers(0, 20), cuts, cuts)
def test_equal_rows_are_equal_however_cut(rows: int, left: list[int], right: list[int]) -> None:
    assert first_difference(cut(table(rows), left), cut(table(rows), right), COLUMNS) is None


@given(st.integers(1, 20), st.data(), cuts, cuts)
def test_the_first_row_that_differs_is_found(rows: int, data: st.DataObject, left: list[int], right: list[int]) -> None:
    at = data.draw(st.integers(0, rows - 1))
    other = table(rows)
    other["mass"][at, 1] += 1
    other["px"][at:] = -1.0
    found = first_difference(cut(table(rows), left), cut(other, right), COLUMNS)
    assert isinstance(found, RowDifference)
    assert (found.row, found.value("bin_seq")) == (at, at)
    px, mass = found.columns
    assert (px.column, px.element, px.left, px.right) == ("px", -1, at / 3, -1.0)
    assert (mass.column, mass.element, mass.elements, mass.left, mass.right) == ("mass", 1, 1, at, at + 1)


@given(st.integers(0, 20), st.integers(1, 9), cuts, cuts)
def test_a_stream_that_ends_early(rows: int, more: int, left: list[int], right: list[int]) -> None:
    found = first_difference(cut(table(rows), left), cut(table(rows + more), right), COLUMNS)
    assert isinstance(found, RowDifference)
    assert (found.row, found.left, found.value("bin_seq"), found.columns) == (rows, None, rows, ())


def test_bits_are_compared() -> None:
    zero, minus, nan = table(1), table(1), table(1)
    minus["px"][0], nan["px"][0] = -0.0, math.nan
    assert first_difference([zero], [minus], COLUMNS) is not None
    assert first_difference([nan], [concat_tables([nan], COLUMNS)], COLUMNS) is None
