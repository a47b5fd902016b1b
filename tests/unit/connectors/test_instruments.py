"""Ticks and partitions: option, table, file, prices, in that order."""

from collections.abc import Callable
from pathlib import Path

import databento_dbn
import numpy as np
import pytest

from connectors.dbn_verify import VerifyReport, verify
from connectors.instruments import assign_partitions, known_tick_px, resolve, tick_px_of_option
from runtime.errors import InputError

Make = Callable[..., bytes]


@pytest.mark.parametrize(
    ("instrument", "tick_px"),
    [
        ("GLBX.MDP3:ESH4", 250_000_000),
        ("GLBX.MDP3:MESZ25", 250_000_000),
        ("GLBX.MDP3:ZNM4", 15_625_000),
        ("GLBX.MDP3:M2KU4", 100_000_000),
        ("GLBX.MDP3:ESH4-ESM4", None),
        ("GLBX.MDP3:ESH4 C5000", None),
        ("GLBX.MDP3:17077", None),
        ("XNAS.ITCH:ESH4", None),
        ("SYNTH.BARO:SYN0", 250_000_000),
    ],
)
def test_the_table_knows_outright_futures_only(instrument: str, tick_px: int | None) -> None:
    assert known_tick_px(instrument) == tick_px


def test_an_option_is_a_positive_decimal_number() -> None:
    assert tick_px_of_option("0.25") == 250_000_000
    assert tick_px_of_option(".000000001") == 1
    assert tick_px_of_option("5") == 5_000_000_000
    for text in ("", "0", "-1", "0.0", "x", "1e-2", "0.0000000001", "."):
        with pytest.raises(InputError, match="is no tick size"):
            tick_px_of_option(text)


@pytest.fixture
def report(tmp_path: Path, make_dbn: Make, make_orders: Callable[..., np.ndarray]) -> VerifyReport:
    (tmp_path / "a").write_bytes(make_dbn(make_orders(100)))
    return verify(tmp_path / "a")


def test_the_tick_is_inferred_with_a_notice_unless_it_is_given(report: VerifyReport) -> None:
    found, notices = resolve([report])
    assert (found["XTST.TEST:TEST"].tick_px, found["XTST.TEST:TEST"].tick_source) == (250_000_000, "inferred")
    assert found["XTST.TEST:TEST"].venue_symbol == "TEST"
    (notice,) = notices
    assert "0.25" in notice
    found, notices = resolve([report], tick_px=5)
    assert (found["XTST.TEST:TEST"].tick_px, found["XTST.TEST:TEST"].tick_source, notices) == (5, "option", [])


def test_a_definition_record_in_the_file_comes_before_inference(
    tmp_path: Path, make_metadata: Make, make_orders: Callable[..., np.ndarray]
) -> None:
    row = np.zeros(1, np.dtype(databento_dbn.InstrumentDefMsg._dtypes))
    row["length"], row["rtype"], row["instrument_id"] = 130, 19, 7
    row["min_price_increment"] = 50_000_000
    (tmp_path / "a").write_bytes(make_metadata(schema=None) + row.tobytes() + make_orders(9).tobytes())
    found, notices = resolve([verify(tmp_path / "a")])
    assert (found["XTST.TEST:TEST"].tick_px, found["XTST.TEST:TEST"].tick_source) == (50_000_000, "file")
    assert notices == []


def test_no_price_no_tick(tmp_path: Path, make_dbn: Make, make_orders: Callable[..., np.ndarray]) -> None:
    rows = make_orders(5)
    rows["action"] = b"T"
    (tmp_path / "a").write_bytes(make_dbn(rows))
    with pytest.raises(InputError, match="cannot be told"):
        resolve([verify(tmp_path / "a")])


def test_partitions_are_filled_evenly_and_the_same_every_time() -> None:
    records = {"d": 10, "a": 100, "c": 30, "b": 60}
    assert assign_partitions(records, 2) == {"a": 0, "b": 1, "c": 1, "d": 1}
    assert assign_partitions(records, 2) == assign_partitions(dict(reversed(records.items())), 2)
    assert set(assign_partitions(records, 1).values()) == {0}
