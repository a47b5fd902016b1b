"""Ticks of well-known instruments, partitions, and how the tick of any instrument is found.

The table is small on purpose: it holds outright futures whose tick has been the same for as long as MBO data of them
exists. Spreads and options of the same roots have other ticks and do not match. Whatever is not in it comes from a
definition record in the file, or is inferred from the prices, with a notice.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from connectors.dbn_stats import InstrumentStats
from connectors.dbn_verify import VerifyReport
from connectors.inspect import decimal
from connectors.synthetic import DATASET as SYNTHETIC_DATASET
from connectors.synthetic import TICK_PX as SYNTHETIC_TICK_PX
from runtime.errors import InputError
from runtime.tapes import Instrument

GLOBEX_TICKS: Final = {
    "ES": 250_000_000,  # E-mini S&P 500, index points
    "MES": 250_000_000,  # Micro E-mini S&P 500
    "NQ": 250_000_000,  # E-mini Nasdaq-100
    "MNQ": 250_000_000,  # Micro E-mini Nasdaq-100
    "RTY": 100_000_000,  # E-mini Russell 2000
    "M2K": 100_000_000,  # Micro E-mini Russell 2000
    "YM": 1_000_000_000,  # E-mini Dow
    "MYM": 1_000_000_000,  # Micro E-mini Dow
    "CL": 10_000_000,  # crude oil, dollars per barrel
    "NG": 1_000_000,  # natural gas, dollars per MMBtu
    "GC": 100_000_000,  # gold, dollars per troy ounce
    "ZN": 15_625_000,  # 10-year note, half of 1/32
    "ZB": 31_250_000,  # bond, 1/32
}
"""Root of a CME Globex outright future → tick, 1e-9. Source: contract specifications of CME Group."""

_OUTRIGHT = re.compile(r"GLBX\.MDP3:(?P<root>[A-Z0-9]{1,3}?)[FGHJKMNQUVXZ]\d{1,2}")


def known_tick_px(instrument: str) -> int | None:
    """Tick of an instrument from the table, 1e-9; None if it is not in it."""
    if instrument.startswith(f"{SYNTHETIC_DATASET}:"):
        return SYNTHETIC_TICK_PX
    match = _OUTRIGHT.fullmatch(instrument)
    return GLOBEX_TICKS.get(match["root"]) if match else None


def tick_px_of_option(text: str) -> int:
    """A tick as a user writes it, e.g. `0.25`, in 1e-9.

    Raises:
        InputError: not a positive decimal number of at most nine places.
    """
    match = re.fullmatch(r"(\d{1,9})?(?:\.(\d{1,9}))?", text.strip(), re.ASCII)
    px = 0 if match is None else int(match[1] or 0) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if px <= 0:
        raise InputError(f"{text!r} is no tick size", remedy="give a positive decimal number such as 0.25")
    return px


def resolve(
    reports: Sequence[VerifyReport], *, tick_px: int | None = None, partitions: int = 1
) -> tuple[dict[str, Instrument], list[str]]:
    """Everything that a tape must know of the instruments of its files.

    The tick comes from the option, the table, definition records in the files, or, last, from the greatest common
    divisor of the prices of adds and modifies. Partitions are filled by number of records, largest first.

    Args:
        reports: of the files, in time order.
        tick_px: tick of all instruments, 1e-9, if the user gave one.
        partitions: partitions of the tape.

    Returns:
        Name → instrument, in order of first appearance, and notices for the user (one sentence each).

    Raises:
        InputError: an instrument's tick cannot be told.
    """
    records: dict[str, int] = {}
    for report in reports:
        for name, stats in report.instruments.items():
            records[name] = records.get(name, 0) + stats.records
    places, notices = assign_partitions(records, partitions), []
    out: dict[str, Instrument] = {}
    for name in records:
        px, source = _tick(name, reports, tick_px)
        out[name] = Instrument(places[name], px, tick_source=source, venue_symbol=name.split(":", 1)[1])
        if source == "inferred":
            notices.append(f"tick of {name} inferred from its prices: {decimal(px)}; give --tick if that is wrong")
    return out, notices


def assign_partitions(records: Mapping[str, int], partitions: int) -> dict[str, int]:
    """Instrument → partition: the largest first, each to the partition that has least so far."""
    load = [0] * partitions
    out = {}
    for name in sorted(records, key=lambda n: (-records[n], n)):
        out[name] = load.index(min(load))
        load[out[name]] += records[name]
    return out


def _tick(name: str, reports: Sequence[VerifyReport], option: int | None) -> tuple[int, str]:
    if option is not None:
        return option, "option"
    table = known_tick_px(name)
    if table is not None:
        return table, "table"
    for report in reports:
        if name in report.definition_ticks:
            return report.definition_ticks[name], "file"
    inferred = common_tick([r.instruments[name] for r in reports if name in r.instruments])
    if inferred == 0:
        raise InputError(f"the tick of {name} cannot be told: no add or modify has a price", remedy="give --tick")
    return inferred, "inferred"


def common_tick(stats: Sequence[InstrumentStats]) -> int:
    """Greatest common divisor of the ticks of one instrument's files; 0 if none has a price."""
    return math.gcd(*(s.tick_px for s in stats))
