"""Engine output against the oracle's: exact for integers, 1e-9 of each vector's largest value for floats."""

import numpy as np

from schemas import bins, trades
from schemas.columns import concat_tables
from schemas.mbp10 import MBP10_DTYPE

TOLERANCE = 1e-9


def bin_table(outputs, radius):
    return concat_tables([o.bins for o in outputs], bins.engine_columns(radius))


def trade_table(outputs):
    return concat_tables([o.trades for o in outputs], trades.COLUMNS)


def mbp10_rows(outputs):
    return np.concatenate([np.zeros(0, MBP10_DTYPE), *(o.mbp10 for o in outputs)])


def assert_bins_equal(table, rows, radius):
    assert list(table["bin_seq"]) == [row["bin_seq"] for row in rows]
    for column in bins.engine_columns(radius):
        found = table[column.name]
        for i, row in enumerate(rows):
            expected = np.array(row[column.name])
            where = f"{column.name} of bin {row['bin_seq']}"
            if column.dtype == "f8":
                scale = max(1e-12, float(np.max(np.abs(expected), initial=0)))
                assert np.max(np.abs(found[i] - expected), initial=0) <= TOLERANCE * scale, where
            else:
                assert np.array_equal(found[i], expected), f"{where}: {found[i]} is not {expected}"


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
