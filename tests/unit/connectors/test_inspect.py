"""What `inspect` tells of a file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from connectors.inspect import decimal, inspect
from schemas.mbo import F_LAST, F_SNAPSHOT
from schemas.units import UNDEF_PRICE


def test_counts_of_an_mbo_file(
    tmp_path: Path, make_dbn: Callable[..., bytes], make_orders: Callable[..., np.ndarray]
) -> None:
    rows = make_orders(50, ids=(7, 8))
    rows["flags"][:3] = (F_SNAPSHOT, F_SNAPSHOT, F_SNAPSHOT | F_LAST)
    rows["action"][0], rows["side"][0], rows["price"][0] = b"R", b"N", UNDEF_PRICE
    rows["action"][40:] = b"T"
    (tmp_path / "a").write_bytes(make_dbn(rows, frames=2, symbols={"AA": 7, "BB": 8}))
    found = inspect(tmp_path / "a")
    json.dumps(found)
    assert found["actions"] == {"A": 39, "R": 1, "T": 10}
    assert found["snapshot"] == {"records": 3, "begins_with_clear": True, "ends_with_last": True}
    assert found["flags"]["snapshot"] == 3
    assert found["flags"]["last"] == int(((rows["flags"] & F_LAST) != 0).sum())
    assert sum(found["sides"].values()) == found["records"] == 50
    mine = rows[rows["instrument_id"] == 7]
    told = found["instruments"]["XTST.TEST:AA"]
    assert told["records"] == len(mine)
    assert (told["first_sequence"], told["last_sequence"]) == (mine["sequence"][0], mine["sequence"][-1])
    assert told["tick"] == "0.25"
    assert found["range"]["first"].startswith("2024-01-02T09:00:00.")
    assert found["metadata"]["symbols"]["first"] == ["AA", "BB"]


def test_other_schemas_give_metadata_and_counts(tmp_path: Path, make_metadata: Callable[..., bytes]) -> None:
    (tmp_path / "a").write_bytes(make_metadata(schema="mbp-1") + (bytes([20, 1]) + bytes(78)) * 3)
    found = inspect(tmp_path / "a")
    assert (found["records"], found["by_rtype"]) == (3, {"mbp-1": 3})
    assert found["metadata"]["schema"] == "mbp-1"
    assert "actions" not in found


def test_prices_as_text() -> None:
    assert [decimal(px) for px in (0, 250_000_000, -250_000_000, 10**9, 1, UNDEF_PRICE)] == [
        "0", "0.25", "-0.25", "1", "0.000000001", "-",
    ]  # fmt: skip
