"""How our Parquet files are written, in one place: rows of the lake, grids and books for people.

Measured on a day of ESH4 and an hour of AAPL, bins of 20 kB (zstd level 1; process CPU of the write alone):

- No dictionaries for vectors. Their numbers hardly repeat inside a row group, and trying costs twice all the rest:
  1.7 s against 0.6 s for the 10,920 bins of ESH4, for a file that is a fifth larger.
- Floats as byte streams (BYTE_STREAM_SPLIT): neighbouring ticks share sign and exponent. A tenth smaller, no slower.

Measured on 600,000 raw records of 23 columns; ms of process CPU and bytes a row of one column:

- Times and numbers that nearly rise as differences (DELTA_BINARY_PACKED): `ts_event` 10 ms and 0.2 bytes against 26 ms
  and 2.3 plain; `sequence` 6 and 0.04 against 11 and 2.5.
- Prices, sizes and other integers as dictionaries: `price` 9 ms and 0.7 bytes against 24 and 1.5. Only ids of orders
  are too many for one: 25 ms plain against 41.
- Together 5 bytes a row; pyarrow's defaults take 21, and longer.
- Statistics for plain columns only: nobody skips row groups by the smallest element of a vector.
"""

from typing import Any, Final

import pyarrow as pa

ZSTD_LEVEL: Final = 1
"""Level 3 takes half as long again for 2 % less (ESH4: 0.9 s, 105.5 MB against 0.6 s, 107.8 MB). No compression at all
takes half of the time (0.3 s) and makes files 1.4 (AAPL) to 2.1 times as large."""


_RISING: Final = frozenset({"seq", "row", "event_id", "bin_seq", "sequence"})
"""Numbers, beside times, of which the next is near the last."""

_MANY: Final = frozenset({"order_id"})
"""Integers that hardly repeat."""


def _rises(field: pa.Field) -> bool:
    wide = pa.types.is_timestamp(field.type) or (pa.types.is_integer(field.type) and field.type.bit_width >= 32)
    timed = (field.name.startswith("ts_") or field.name.endswith("_ns")) and field.name != "ts_in_delta"
    return wide and (timed or field.name in _RISING)


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Keyword arguments of `pyarrow.parquet.ParquetWriter` and `write_table` for rows of a schema.

    Args:
        schema: columns are scalars, text, or fixed-size lists of numbers. Other columns are written plain.
    """
    kinds = pa.types
    rising = [f.name for f in schema if _rises(f)]
    words = [f.name for f in schema if kinds.is_string(f.type) or kinds.is_dictionary(f.type)]
    words += [
        f.name for f in schema
        if kinds.is_integer(f.type) and f.type.bit_width >= 32 and f.name not in (*rising, *_MANY)
    ]  # fmt: skip
    vectors = [f.name for f in schema if kinds.is_fixed_size_list(f.type) and kinds.is_floating(f.type.value_type)]
    split = [f.name for f in schema if kinds.is_floating(f.type)] + [f"{name}.list.element" for name in vectors]
    return {
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": words,
        "column_encoding": {
            **dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
            **dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        },
        "write_statistics": [f.name for f in schema if not pa.types.is_nested(f.type)],
    }
