"""The committed sample: a synthetic file of two instruments, with its truth."""

from pathlib import Path

import numpy as np
import pytest

from connectors.dbn_file import DbnFile
from connectors.dbn_verify import Expected, verify
from connectors.simulate import write

SAMPLE = Path(__file__).parent / "data" / "synthetic-2500.mbo.dbn.zst"
SHA256 = "c3e776f4e22644c91743eba0a23d4246b298e1ca41155e196f069034b56d23cb"
RECORDS_SHA256 = "4398d063752316f4ddfb5dea1ae9260bba8a7c2fb24e2c68d2cae2652a74db7d"
BBO = {1: (19999, 92, 20000, 4), 2: (23999, 4, 24000, 17)}
"""Instrument number → best bid, its size, best ask, its size; in ticks of 0.25 and lots."""


def records() -> np.ndarray:
    with DbnFile(SAMPLE) as file:
        return np.concatenate([run.mbo() for run in file.runs()])


def test_the_file_is_the_one_that_was_committed() -> None:
    report = verify(SAMPLE, manifest={SAMPLE.name: Expected(sha256=SHA256, records=2500)})
    assert {name: s.records for name, s in report.instruments.items()} == {
        "SYNTH.BARO:SYN0": 1026,
        "SYNTH.BARO:SYN1": 1474,
    }
    assert SAMPLE.stat().st_size < 60_000


def test_the_simulator_still_makes_these_records(tmp_path: Path) -> None:
    made = write(tmp_path / "again.dbn", records=2500, seed=1, instruments=2, hours=0.02)
    assert made["records_sha256"] == RECORDS_SHA256


@pytest.mark.parametrize("number", [1, 2])
def test_a_plain_book_of_dicts_ends_at_the_known_quotes(number: int) -> None:
    orders: dict[int, tuple[bytes, int, int]] = {}
    rows = records()
    for action, side, px, size, order_id in rows[rows["instrument_id"] == number][
        ["action", "side", "price", "size", "order_id"]
    ].tolist():
        if action in (b"A", b"M"):
            orders[order_id] = (side, px, size)
        elif action == b"C":
            left = orders[order_id][2] - size
            orders[order_id] = (side, px, left)
            if left == 0:
                del orders[order_id]
    depth: dict[tuple[bytes, int], int] = {}
    for side, px, size in orders.values():
        depth[side, px] = depth.get((side, px), 0) + size
    bid, ask = max(p for s, p in depth if s == b"B"), min(p for s, p in depth if s == b"A")
    assert (bid / 2.5e8, depth[b"B", bid], ask / 2.5e8, depth[b"A", ask]) == BBO[number]
