"""SQL answers in the formats that people use."""

import io
import sys
from pathlib import Path
from typing import BinaryIO, Final, Literal

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from clickhouse_connect.driver.exceptions import DatabaseError

from control.services import open_store
from runtime.errors import InputError

Format = Literal["table", "csv", "parquet", "arrow"]

SHOWN_ROWS: Final = 100
"""Rows that a table on the terminal shows; the rest is counted. A terminal keeps a few thousand lines."""


def ask(url: str, sql: str) -> pa.Table:
    """The answer to a query, as Arrow.

    Raises:
        MissingServiceError: no ClickHouse there.
        InputError: ClickHouse refuses the query; its own words are kept.
    """
    client = open_store(url)
    try:
        return client.query_arrow(
            sql, settings={"output_format_arrow_string_as_string": 1, "readonly": 2}, use_strings=True
        )
    except DatabaseError as error:
        text = " ".join(str(error).split())
        raise InputError(f"ClickHouse refuses the query: {text[:600]}", remedy="correct the SQL") from error
    finally:
        client.close()


def write(answer: pa.Table, form: Format, out: Path | None) -> None:
    """Write an answer to a file, or to standard output.

    Args:
        answer: the rows.
        form: `table` for people; others for programs.
        out: the file; None for standard output.
    """
    if form == "table":
        text = as_text(answer)
        if out is None:
            sys.stdout.write(text + "\n")
        else:
            out.write_text(text + "\n")
        return
    if out is None:
        sink = io.BytesIO()
        _encode(answer, form, sink)
        sys.stdout.buffer.write(sink.getbuffer())
        sys.stdout.buffer.flush()
    else:
        with out.open("wb") as file:
            _encode(answer, form, file)


def _encode(answer: pa.Table, form: Format, sink: BinaryIO) -> None:
    if form == "csv":
        pa_csv.write_csv(answer, sink)
    elif form == "parquet":
        pq.write_table(answer, sink)
    else:
        with pa.ipc.new_stream(sink, answer.schema) as writer:
            writer.write_table(answer)


def as_text(answer: pa.Table) -> str:
    """An answer as a table of text; at most 100 rows, and how many there are."""
    frame = pl.from_arrow(answer.slice(0, SHOWN_ROWS))
    assert isinstance(frame, pl.DataFrame)
    with pl.Config(
        tbl_rows=SHOWN_ROWS, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True,
        fmt_str_lengths=80, tbl_width_chars=240, thousands_separator=True, tbl_formatting="UTF8_FULL_CONDENSED",
    ):  # fmt: skip
        text = str(frame)
    more = answer.num_rows - SHOWN_ROWS
    return text + (f"\n… and {more:,} more rows" if more > 0 else "")
