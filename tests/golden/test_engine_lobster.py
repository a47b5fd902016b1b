"""The rebuilt AAPL book against the book rows that LOBSTER published for the same hour, message by message."""

import numpy as np
import pytest

from engine.engine import Engine, EngineConfig
from tests.golden.read_dbn import read_mbo

pytestmark = pytest.mark.data

PX = 100_000
"""LOBSTER's price unit, 1e-4 dollars, in 1e-9."""

SAME_BEST = 54_606
"""Messages until which the best quotes must agree; then orders below the seed's 50 levels come to the top."""
SAME_LEVELS = 672

NO_LEVEL = 9_999_999_999
"""LOBSTER's price, up to its sign, where there is no level."""


def rows(path, count):
    return np.loadtxt(path, delimiter=",", dtype=np.int64, max_rows=count)


def books_after_messages(records, count):
    """The engine after the records of each message 1..count; some messages have no record."""
    engine = Engine(EngineConfig(tick_px=10_000_000))
    ends = np.searchsorted(records["sequence"], np.arange(1, count + 1), side="right")
    for first, end in zip((0, *ends[:-1]), ends, strict=True):
        start, block = 0, records[first:end]
        while start < len(block):
            _, start = engine.apply(block, start)
        yield engine


def published(row, side, seen):
    """(price, size) of one side of a published row, as far as the records can know them.

    A level that lay below LOBSTER's fifty when its orders came is in no message, yet shows once others above it leave.
    """
    columns = row.reshape(50, 4)[:, :2] if side == "A" else row.reshape(50, 4)[:, 2:]
    return [(int(px) * PX, int(size)) for px, size in columns if int(px) * PX in seen]


def test_best_quotes_after_every_message(data_dir, aapl):
    expected = rows(data_dir / "lobster" / "AAPL_2012-06-21_orderbook_50_head.csv", SAME_BEST)
    found = np.array(
        [
            (e.best_ask_px // PX, e.best_ask_sz, e.best_bid_px // PX, e.best_bid_sz)
            for e in books_after_messages(read_mbo(aapl), SAME_BEST)
        ]
    )
    wrong = np.flatnonzero((found != expected).any(axis=1))
    assert not len(wrong), f"first after message {wrong[0] + 1}: {found[wrong[0]]} is not {expected[wrong[0]]}"


def test_fifty_levels_after_each_of_the_first_messages(data_dir, aapl):
    expected = rows(data_dir / "lobster" / "AAPL_2012-06-21_orderbook_50_tests.csv", SAME_LEVELS)
    records = read_mbo(aapl)
    seen = set(records["price"].tolist())
    unseen = 0
    for i, engine in enumerate(books_after_messages(records, SAME_LEVELS)):
        real_levels = int((np.abs(expected[i].reshape(50, 4)[:, ::2]) != NO_LEVEL).sum())
        compared = 0
        for side in "AB":
            levels = published(expected[i], side, seen)
            ours = [(px, size) for px, size, _ in engine.levels(side)[: len(levels)].tolist()]
            assert ours == levels, f"message {i + 1}, side {side}"
            compared += len(levels)
        unseen += real_levels - compared
    assert unseen == 8, "one level, at 592.50 from message 507 to 514"
