"""Arrow rows and headers of other releases: every pair of an old and a new producer and consumer."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runtime.codec import decode_rows, encode_rows
from schemas import bins, trades
from schemas.columns import Column, ColumnError, empty_table, from_arrow, to_arrow
from schemas.envelope import KINDS, Envelope, HeadersError, UnknownKindError, from_headers

OLD = (Column("px", "i8", "1e-9", "price"), Column("side", "i1", "sign", "+1, -1, 0"))
NEW = (*OLD[:1], Column("venue", "i4", "id", "venue; -1 unknown", missing=-1), *OLD[1:])
REQUIRED = (*OLD, Column("venue", "i4", "id", "venue"))
RETYPED = (Column("px", "f8", "currency", "price"), *OLD[1:])
VECTOR = (*OLD, Column("depth", "f8", "lots", "depth; 0 where missing", 3, missing=0))
ROWS = {
    "px": np.array([5, -7]),
    "side": np.array([1, -1], "i1"),
    "venue": np.array([3, 4], "i4"),
    "depth": np.ones((2, 3)),
}


def sent(writer: tuple[Column, ...], reader: tuple[Column, ...], **rows: Any) -> dict[str, list[Any]]:
    """Rows as one release writes and another reads them."""
    return {n: a.tolist() for n, a in decode_rows(encode_rows({**ROWS, **rows}, writer), reader).items()}


def test_a_new_optional_column_is_filled_for_the_new_and_passed_over_by_the_old() -> None:
    assert sent(OLD, NEW) == {"px": [5, -7], "venue": [-1, -1], "side": [1, -1]}
    assert sent(NEW, OLD) == {"px": [5, -7], "side": [1, -1]}
    assert sent(OLD, VECTOR)["depth"] == [[0.0] * 3] * 2
    assert decode_rows(encode_rows(ROWS, OLD), NEW)["venue"].dtype == np.int32


def test_a_removed_column_is_passed_over_by_the_new_and_an_error_for_the_old_unless_optional() -> None:
    assert sent(REQUIRED, OLD) == {"px": [5, -7], "side": [1, -1]}
    with pytest.raises(ColumnError, match=r"^column venue is missing$") as caught:
        sent(OLD, REQUIRED)
    assert (caught.value.column, caught.value.reason) == ("venue", "is missing")


@pytest.mark.parametrize(("writer", "reader"), [(OLD, RETYPED), (RETYPED, OLD)])
def test_another_type_is_an_error_either_way(writer: tuple[Column, ...], reader: tuple[Column, ...]) -> None:
    with pytest.raises(ColumnError, match=r"^column px is (int64|double), expected (int64|double)$"):
        sent(writer, reader)


def test_another_grid_width_is_an_error() -> None:
    batch = to_arrow(empty_table(bins.columns(3), 1), bins.columns(3))
    with pytest.raises(ColumnError, match="column add_mass is fixed_size_list"):
        from_arrow(batch, bins.columns(4))


def test_order_does_not_count_and_a_name_that_is_there_twice_is_an_error() -> None:
    assert sent((OLD[1], OLD[0]), OLD) == sent(OLD, OLD)
    twice = pa.record_batch([pa.array([1]), pa.array([2])], names=["px", "px"])
    with pytest.raises(ColumnError, match="column px is there 2 times"):
        from_arrow(twice, OLD[:1])


@pytest.mark.parametrize(
    ("column", "array"),
    [
        (OLD[0], pa.array([1, None])),
        (VECTOR[2], pa.array([[1.0, 2, 3], None], VECTOR[2].arrow_type)),
        (VECTOR[2], pa.FixedSizeListArray.from_arrays(pa.array([1.0, None, 3.0]), type=VECTOR[2].arrow_type)),
    ],
)
def test_a_null_is_an_error_and_never_a_number(column: Column, array: pa.Array) -> None:
    """NumPy would make a NaN, and a float column, of it."""
    with pytest.raises(ColumnError, match=f"column {column.name} has 1 nulls"):
        from_arrow(pa.record_batch([array], names=[column.name]), (column,))


def test_an_unknown_code_goes_through_as_it_is() -> None:
    """A code is a number: who does not know it hands it on, and is the one to say so where it branches on it."""
    assert sent(OLD, OLD, side=np.array([9, -128], "i1"))["side"] == [9, -128]


def test_no_column_of_this_release_is_filled_by_accident() -> None:
    """An optional column is for rows of older releases; the first release has none."""
    assert [c.name for c in (*bins.columns(), *trades.COLUMNS) if c.missing is not None] == []


def headers(**changes: bytes | None) -> list[tuple[str, bytes]]:
    known = {**dict(Envelope("data", "mbo", seq=4).to_headers()), **changes}
    return [(name, value) for name, value in known.items() if value is not None]


def test_a_new_header_is_kept_and_a_removed_optional_one_has_its_absent_value() -> None:
    assert from_headers(headers(venue=b"x")).other == (("venue", b"x"),)
    assert from_headers(headers(venue=b"x")).to_headers() == [*from_headers(headers()).to_headers(), ("venue", b"x")]
    bare = from_headers(headers(seq=None, count=None, last=None))
    assert (bare.seq, bare.count, bare.last) == (-1, 0, True)


def test_an_unknown_kind_is_an_error_of_its_own_and_never_another_kind() -> None:
    with pytest.raises(UnknownKindError, match=r"^message headers name kind b'halt'$") as caught:
        from_headers(headers(kind=b"halt"))
    assert (caught.value.header, caught.value.value) == ("kind", b"halt")
    assert "halt" not in KINDS


@pytest.mark.parametrize(
    ("name", "value"), [("kind", None), ("schema", None), ("seq", b"4.5"), ("count", b""), ("run", b"\xff")]
)
def test_a_header_that_is_not_of_its_form_is_an_error(name: str, value: bytes | None) -> None:
    with pytest.raises(HeadersError, match=f"message headers name {name} ") as caught:
        from_headers(headers(**{name: value}))
    assert not isinstance(caught.value, UnknownKindError)
    assert (caught.value.header, caught.value.value) == (name, value)
