"""Engine output against the oracle's: exact for integers, 1e-9 of each vector's largest value for floats.

Where large input was taken back at the same instant, as an order of 2^31 lots that is cancelled, what is left of a
velocity is the rounding of large numbers; it may differ by 1e-13 of the largest value that the quantity ever had.
"""

import numpy as np

from schemas import bins, trades
from schemas.columns import concat_tables
from schemas.mbp10 import MBP10_DTYPE

TOLERANCE = 1e-9
ROUNDING = 1e-13


def bin_table(outputs, radius):
    return concat_tables([o.bins for o in outputs], bins.engine_columns(radius))


def trade_table(outputs):
    return concat_tables([o.trades for o in outputs], trades.COLUMNS)


def mbp10_rows(outputs):
    return np.concatenate([np.zeros(0, MBP10_DTYPE), *(o.mbp10 for o in outputs)])


def assert_bins_equal(table, rows, radius, largest):
    """`largest`: of each float vector with cancellation, its largest value anywhere and ever (`NaivePhysics`)."""
    assert table["bin_seq"].tolist() == [row["bin_seq"] for row in rows]
    if not rows:
        return
    for column in bins.engine_columns(radius):
        found, expected = table[column.name], np.array([row[column.name] for row in rows])
        assert found.shape == expected.shape, column.name
        if column.dtype == "f8":
            elements = tuple(range(1, expected.ndim))
            scale = np.maximum(1e-12, np.abs(expected).max(axis=elements, keepdims=True))
            wrong = ~(np.abs(found - expected) <= TOLERANCE * scale + ROUNDING * largest.get(column.name, 0))
        else:
            wrong = found != expected
        if wrong.any():
            i = int(np.flatnonzero(wrong.reshape(len(rows), -1).any(axis=1))[0])
            raise AssertionError(f"{column.name} of bin {rows[i]['bin_seq']}: {found[i]} is not {expected[i]}")


def assert_trades_equal(table, rows):
    found = list(zip(*(table[c.name].tolist() for c in trades.COLUMNS), strict=True))
    assert found == [tuple(row) for row in rows]


def assert_mbp10_equal(found, rows):
    assert len(found) == len(rows)
    for record, (head, flags, (bids, asks)) in zip(found, rows, strict=True):
        assert (record["length"], record["rtype"], record["depth"], record["flags"]) == (92, 10, 0, flags)
        for name, value in head.items():
            assert record[name] == value, name
        for i in range(10):
            level = [int(record[f"{s}_{w}_{i:02d}"]) for s in ("bid", "ask") for w in ("px", "sz", "ct")]
            expected = [*bids[i], *asks[i]]
            expected[1], expected[4] = (min(expected[k], 2**32 - 2) for k in (1, 4))
            assert level == expected
