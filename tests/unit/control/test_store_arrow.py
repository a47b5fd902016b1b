import pyarrow as pa
import pytest

from control.embedded.store_arrow import END, ArrowJoiner, PieceError


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return bytes(sink.getvalue().to_pybytes())


def table(start: int, rows: int) -> pa.Table:
    numbers = list(range(start, start + rows))
    columns = {"a": numbers, "s": [str(n) for n in numbers], "v": [[float(n)] * (n % 3) for n in numbers]}
    return pa.table(columns, schema=pa.schema([("a", pa.int64()), ("s", pa.string()), ("v", pa.list_(pa.float64()))]))


def test_pieces_make_one_stream() -> None:
    joiner = ArrowJoiner()
    assert not joiner.begun
    pieces = [table(start, rows) for start, rows in ((0, 20), (20, 1), (21, 0), (21, 9))]
    whole = b"".join(joiner.add(stream(piece)) for piece in pieces) + END
    assert joiner.begun
    assert pa.ipc.open_stream(whole).read_all().equals(table(0, 30))
    assert len(whole) < sum(len(stream(piece)) for piece in pieces)


@pytest.mark.parametrize(
    "piece", [b"", b"rubbish and more", stream(table(0, 3))[:-8], stream(pa.table({"other": [1]}))]
)
def test_a_piece_that_does_not_fit_is_refused(piece: bytes) -> None:
    joiner = ArrowJoiner()
    joiner.add(stream(table(0, 1)))
    with pytest.raises(PieceError, match="does not continue"):
        joiner.add(piece)
