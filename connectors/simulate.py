"""`barograph simulate`: the invented market as a DBN file, labelled synthetic by its dataset and symbols.

The records depend on the arguments alone. The bytes of a compressed file also depend on the release of zstd; its
content does not.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import databento_dbn
import numpy as np
import zstandard

from connectors.market_model import ORDERS_TARGET, SyntheticMarket
from connectors.synthetic import DATASET, symbol
from runtime.errors import InputError
from schemas.mbo import F_LAST
from schemas.units import NS_PER_SECOND

START_NS: Final = 1_704_205_800 * NS_PER_SECOND
"""Begin of a synthetic file: 2 January 2024, 14:30 UTC."""

RECORDS_MIN: Final = 200
"""Records per instrument at least: an opening book and something that happens to it."""

_SLICE_RECORDS: Final = 50_000
"""Records made at once, about; bounds memory."""


def write(
    path: Path | str,
    *,
    records: int = 100_000,
    seed: int = 7,
    instruments: int = 1,
    hours: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a synthetic DBN v3 MBO file; compressed with a checksum if the name ends with `.zst`.

    Args:
        path: where to; an existing file is replaced once the new one is whole.
        records: exact number of records.
        seed: of the market; another seed is another market.
        instruments: how many, `SYN0`, `SYN1`, ...
        hours: event time that the file covers, about.
        on_progress: called with (records written, records in all).

    Returns:
        Plain values: `file`, `records`, `sha256` of the file, `records_sha256` of the records' bytes alone (the same on
        every machine), `bytes`, `instruments` (names).

    Raises:
        InputError: an argument makes no market, or the file cannot be written.
    """
    if instruments < 1 or records < RECORDS_MIN * instruments or hours <= 0 or seed < 0:
        raise InputError(
            f"{records} records of {instruments} instruments in {hours} hours from seed {seed} make no market",
            remedy=f"give at least {RECORDS_MIN} records per instrument, a positive time and a seed from 0 on",
        )
    digest = hashlib.sha256()
    temporary = Path(f"{path}.part")
    try:
        with temporary.open("wb") as out:
            sink = _sink(out, compressed=str(path).endswith(".zst"))
            sink.write(metadata(instruments, START_NS, START_NS + round(hours * 3600) * NS_PER_SECOND))
            done = 0
            for piece in _pieces(records, seed, instruments, hours):
                data = piece.tobytes()
                sink.write(data)
                digest.update(data)
                done += len(piece)
                if on_progress is not None:
                    on_progress(done, records)
            sink.close()
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error.strerror})", remedy="choose another --out") from error
    with Path(path).open("rb") as file:
        file_digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": str(path),
        "records": records,
        "bytes": Path(path).stat().st_size,
        "sha256": file_digest,
        "records_sha256": digest.hexdigest(),
        "instruments": [f"{DATASET}:{symbol(n)}" for n in range(instruments)],
    }


def _sink(file: Any, *, compressed: bool) -> Any:
    """Something to write to; closing it ends the zstd frame and leaves the file open."""
    if compressed:
        return zstandard.ZstdCompressor(level=3, write_checksum=True).stream_writer(file, closefd=False)
    return SimpleNamespace(write=file.write, close=file.flush)


def metadata(instruments: int, start_ns: int, end_ns: int) -> bytes:
    """The head of a synthetic file."""
    day = datetime.fromtimestamp(start_ns // NS_PER_SECOND, UTC).date()
    last = datetime.fromtimestamp(end_ns // NS_PER_SECOND, UTC).date()
    days = {"start_date": day, "end_date": last + timedelta(days=2)}  # a market may run over its planned end
    mappings: list[Any] = [
        SimpleNamespace(raw_symbol=symbol(n), intervals=[SimpleNamespace(**days, symbol=str(n + 1))])
        for n in range(instruments)
    ]
    head = databento_dbn.Metadata(
        dataset=DATASET,
        start=start_ns,
        end=end_ns,
        stype_in=databento_dbn.SType("raw_symbol"),
        stype_out=databento_dbn.SType("instrument_id"),
        schema=databento_dbn.Schema("mbo"),
        symbols=[symbol(n) for n in range(instruments)],
        mappings=mappings,
    )
    return bytes(head.encode())


def _pieces(records: int, seed: int, instruments: int, hours: float) -> Iterator[np.ndarray]:
    """Exactly `records` records, the last one an end of event."""
    seconds = hours * 3600
    orders = min(ORDERS_TARGET, max(40, records // (20 * instruments)))
    rate = max(1, records - orders * instruments) / seconds
    market = SyntheticMarket(seed, instruments, START_NS, rate, orders)
    step_ns = max(1, round(_SLICE_RECORDS / rate * NS_PER_SECOND))
    left, t_ns = records, START_NS
    while left:
        t_ns += step_ns
        piece = market.until(t_ns)
        if len(piece) > left:
            ends = np.flatnonzero(piece["flags"][:left] & F_LAST)
            # Where the next event does not fit any more, orders far from everything fill the file up.
            whole = int(ends[-1]) + 1 if len(ends) else 0
            piece = np.concatenate([piece[:whole], market.deep_adds(left - whole, piece[whole - 1])])
        left -= len(piece)
        yield piece
