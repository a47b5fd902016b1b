"""Bars one trade at a time, as the definition says them: what the vectorised stage is compared with."""

from fractions import Fraction
from math import floor
from typing import Any

from schemas.units import PRICE_SCALE, UNDEF_PRICE


def bars_of(trades: list[dict[str, int]], intervals_ns: list[int]) -> list[dict[str, Any]]:
    """All bars of trades in order, by end and then by width.

    Args:
        trades: `ts_ns` (never falling), `px`, `sz`, `side`.
        intervals_ns: widths.
    """
    found: dict[tuple[int, int], list[dict[str, int]]] = {}
    for trade in trades:
        for width in intervals_ns:
            end = trade["ts_ns"] - trade["ts_ns"] % width + width
            found.setdefault((end, width), []).append(trade)
    return [_bar(end, width, inside) for (end, width), inside in sorted(found.items())]


def _bar(end_ns: int, width: int, inside: list[dict[str, int]]) -> dict[str, Any]:
    priced = [t for t in inside if t["px"] != UNDEF_PRICE]
    px = [t["px"] for t in priced]
    notional, weight = sum(t["px"] * t["sz"] for t in priced), sum(t["sz"] for t in priced)
    return {
        "interval_ns": width,
        "ts_start_ns": end_ns - width,
        "ts_end_ns": end_ns,
        "open_px": px[0] if px else UNDEF_PRICE,
        "high_px": max(px, default=UNDEF_PRICE),
        "low_px": min(px, default=UNDEF_PRICE),
        "close_px": px[-1] if px else UNDEF_PRICE,
        "vwap_px": floor(Fraction(notional, weight)) if weight else UNDEF_PRICE,
        "volume_sz": sum(t["sz"] for t in inside),
        "trade_buy_sz": sum(t["sz"] for t in inside if t["side"] == 1),
        "trade_sell_sz": sum(t["sz"] for t in inside if t["side"] == -1),
        "trade_none_sz": sum(t["sz"] for t in inside if t["side"] == 0),
        "trade_notional": float(Fraction(notional, PRICE_SCALE)),
        "trade_count": len(inside),
    }
