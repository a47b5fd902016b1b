"""Small synthetic DBN files, made in memory."""

from collections.abc import Callable, Mapping
from datetime import date
from types import SimpleNamespace

import databento_dbn
import numpy as np
import pytest
import zstandard

from schemas.mbo import F_LAST, MBO_DTYPE

START_NS = 1_704_186_000_000_000_000  # 2024-01-02 09:00 UTC


def metadata(symbols: Mapping[str, int] | None = None, schema: str | None = "mbo", ts_out: bool = False) -> bytes:
    spans = {
        name: SimpleNamespace(
            raw_symbol=name,
            intervals=[SimpleNamespace(start_date=date(2024, 1, 2), end_date=date(2024, 1, 3), symbol=str(number))],
        )
        for name, number in ({"TEST": 7} if symbols is None else symbols).items()
    }
    encoded = databento_dbn.Metadata(
        dataset="XTST.TEST",
        start=START_NS,
        stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID,
        schema=None if schema is None else databento_dbn.Schema(schema),
        symbols=list(spans),
        mappings=list(spans.values()),
        ts_out=ts_out,
    ).encode()
    return bytes(encoded)


def orders(count: int, *, seed: int = 1, ids: tuple[int, ...] = (7,), gap_ns: int = 1_000_000) -> np.ndarray:
    """Adds at random prices, times rising by up to `gap_ns`."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, MBO_DTYPE)
    rows["length"], rows["rtype"], rows["publisher_id"] = 14, 160, 1
    rows["instrument_id"] = rng.choice(ids, count)
    rows["ts_event"] = START_NS + np.cumsum(rng.integers(0, gap_ns, count))
    rows["ts_recv"] = rows["ts_event"] + 1_000
    rows["order_id"] = np.arange(1, count + 1)
    rows["price"] = rng.integers(1, 50, count) * 250_000_000
    rows["size"], rows["flags"] = 1, np.where(rng.random(count) < 0.4, F_LAST, 0)
    rows["action"], rows["side"] = b"A", rng.choice([b"A", b"B"], count)
    rows["sequence"] = np.arange(count)
    return rows


@pytest.fixture
def make_metadata() -> Callable[..., bytes]:
    return metadata


@pytest.fixture
def make_orders() -> Callable[..., np.ndarray]:
    return orders


@pytest.fixture
def make_dbn() -> Callable[..., bytes]:
    """A DBN stream; `frames` > 0 compresses it, metadata in a frame of its own, records over the others."""

    def make(rows: np.ndarray, *, frames: int = 0, symbols: Mapping[str, int] | None = None) -> bytes:
        head, body = metadata(symbols), rows.tobytes()
        if not frames:
            return head + body
        pack = zstandard.ZstdCompressor(level=3, write_checksum=True).compress
        step = -(-len(body) // max(1, frames - 1)) or 1
        parts = [pack(body[at : at + step]) for at in range(0, len(body), step)]
        return pack(head + body) if frames == 1 else pack(head) + b"".join(parts)

    return make
