"""The ladder that `barograph watch` shows: prices around the mid, what rests there, what comes and goes, the forces.

Everything here is a function of one row of the grid and of what the subscription knows; nothing is kept, nothing is
asked. Pressure and vacuum are those of the engine's gold with its default weights, before smoothing. Near the mid,
pressure below and vacuum above push the price up, the other two down:

    net = (P_below + V_above - P_above - V_below) / (sum of the four), weights exp(-|k| / REACH)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from rich.align import Align
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.gold import GoldConfig
from schemas.units import NS_PER_SECOND, PRICE_SCALE, UNDEF_PRICE

SCALARS: Final = ("bin_seq", "ts_end_ns", "book_state", "best_bid_px", "best_ask_px", "trade_count", "ofi")
VECTORS: Final = ("bid_depth", "ask_depth", "v_add", "v_pull", "v_fill", "v_rest_depth", "a_add", "a_pull")
FIELDS: Final = (*SCALARS, *VECTORS)
"""What the ladder subscribes to; `spot_tick`, `tick_px` and `bucket` come with every row of the grid."""

REACH: Final = 12.0
"""Ticks from the mid at which a force counts a third. The book within a second's move of a liquid future."""

BAR_CELLS: Final = 18
GAUGE_CELLS: Final = 41
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
STATES: Final = ("partial", "snapshot", "valid", "SUSPECT")
MOVES_BELOW: Final = 0.005
"""Share of the largest change below which a tick is shown as still."""

Row = Mapping[str, np.ndarray]
"""One row of the grid: a number for each scalar, a vector for each vector."""


@dataclass(frozen=True, slots=True)
class Forces:
    """Sums of pressure and vacuum on both sides of the mid, lots/s, weighted by nearness; `net` is from -1 to 1."""

    p_above: float
    v_above: float
    p_below: float
    v_below: float

    @property
    def net(self) -> float:
        """Balance of what pushes up and what pushes down; 0 when nothing does."""
        up, down = self.p_below + self.v_above, self.p_above + self.v_below
        return (up - down) / (up + down) if up + down > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """How the stream is: what stands below the ladder.

    Attributes:
        title: instrument, tape and line.
        age_us: from the connector's clock to the gateway's send; 0 in replays.
        lost: whether there is no connection at the moment.
        lag_ms, stale_ms, left_out, gaps, resumed: as the subscription has them; `gaps` counts.
    """

    title: str
    age_us: int = 0
    lag_ms: int = 0
    stale_ms: int = 0
    left_out: int = 0
    gaps: int = 0
    resumed: int = 0
    lost: bool = False


def forces(row: Row, weights: GoldConfig | None = None) -> Forces:
    """The four forces of one row."""
    w = weights or GoldConfig()
    rest = row["v_rest_depth"]
    pressure = w.c1_v_add * row["v_add"] + w.c2_v_rest_up * rest.clip(0) + w.c3_a_add * row["a_add"].clip(0)
    vacuum = w.c4_v_pull * row["v_pull"] + w.c5_v_fill * row["v_fill"]
    vacuum = vacuum + w.c6_v_rest_down * (-rest).clip(0) + w.c7_a_pull * row["a_pull"].clip(0)
    k = np.arange(len(rest)) - len(rest) // 2
    near = np.exp(-np.abs(k) / REACH)
    p, v = near * pressure.clip(0), near * vacuum.clip(0)
    return Forces(float(p[k > 0].sum()), float(v[k > 0].sum()), float(p[k < 0].sum()), float(v[k < 0].sum()))


def picture(row: Row, link: Link, height: int) -> Panel:
    """The whole screen for one row.

    Args:
        row: the newest row.
        link: how the stream is.
        height: prices to show; at most what the row holds.
    """
    body = Group(_quote(row), Text(), _rungs(row, height), Text(), _gauge(forces(row)), Text(), _link(row, link))
    return Panel(Align.center(body), title=link.title, border_style=_tone(row, link))


def _tone(row: Row, link: Link) -> str:
    return "red" if link.lost or link.stale_ms or int(row["book_state"]) == STATES.index("SUSPECT") else "dim"


def _quote(row: Row) -> Align:
    digits = _digits(int(row["tick_px"]) * int(row["bucket"]))
    bid, ask = (price(int(row[name]), digits) for name in ("best_bid_px", "best_ask_px"))
    text = Text.assemble((bid, "bold green"), "  ", ("bid · ask", "dim"), "  ", (ask, "bold red"))
    return Align.center(text)


def _rungs(row: Row, height: int) -> Table:
    """Prices from high to low: sizes at rest on both sides as bars, and what is added and taken there."""
    radius = len(row["bid_depth"]) // 2
    reach = min(radius, max(1, height // 2))
    shown = slice(radius - reach, radius + reach + 1)
    bids, asks = row["bid_depth"][shown], row["ask_depth"][shown]
    most = max(1.0, float(bids.max()), float(asks.max()))
    change = row["v_rest_depth"][shown]
    loudest = max(1e-9, float(np.abs(change).max()))
    step_px = int(row["tick_px"]) * int(row["bucket"])
    digits = _digits(step_px)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, side in (("bid lots", "right"), ("", "right"), ("price", "center"), ("", "left"), ("ask lots", "left")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    table.add_column("lots/s", justify="right")
    for i in range(2 * reach, -1, -1):
        px = (int(row["spot_tick"]) + i - reach) * step_px
        style = "reverse" if i == reach else ""
        still = abs(change[i]) < MOVES_BELOW * loudest
        table.add_row(
            lots(bids[i]),
            Text(bar(bids[i] / most, mirrored=True), "green"),
            Text(price(px, digits), style),
            Text(bar(asks[i] / most), "red"),
            lots(asks[i]),
            Text("" if still else f"{change[i]:+,.0f}", "green" if change[i] > 0 else "magenta"),
        )
    return table


def _gauge(found: Forces) -> Group:
    """The balance as a needle between down and up, and the four sums."""
    at = round((found.net + 1) / 2 * (GAUGE_CELLS - 1))
    middle = GAUGE_CELLS // 2
    cells = ["─"] * GAUGE_CELLS
    cells[middle] = "┼"
    cells[at] = "●"
    tone = "green" if found.net > 0 else "red" if found.net < 0 else "dim"
    needle = Text.assemble(("down ", "dim"), ("".join(cells), tone), (" up", "dim"), f"  {found.net:+.2f}")
    sums = Text.assemble(
        ("pressure above ", "dim"), f"{found.p_above:,.0f}   ", ("below ", "dim"), f"{found.p_below:,.0f}      ",
        ("vacuum above ", "dim"), f"{found.v_above:,.0f}   ", ("below ", "dim"), f"{found.v_below:,.0f}",
    )  # fmt: skip
    return Group(Align.center(needle), Align.center(sums))


def _link(row: Row, link: Link) -> Align:
    seconds, rest_ns = divmod(int(row["ts_end_ns"]), NS_PER_SECOND)
    time = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{rest_ns // 100_000_000}"
    parts = [
        (time, ""),
        (STATES[int(row["book_state"])], "" if int(row["book_state"]) == STATES.index("valid") else "yellow"),
        (f"age {link.age_us / 1000:,.0f} ms" if link.age_us else "replay", "dim"),
        (f"lag {link.lag_ms:,} ms", "dim"),
    ]
    counts = (("conflated", link.left_out), ("gaps", link.gaps), ("reconnects", link.resumed))
    parts += [(f"{name} {number:,}", "yellow") for name, number in counts if number]
    if link.lost:
        parts.append(("NO CONNECTION, trying again", "bold red"))
    elif link.stale_ms:
        parts.append((f"STALE {link.stale_ms / 1000:,.0f} s", "bold red"))
    return Align.center(Text("  ·  ").join(Text(text, style) for text, style in parts))


def bar(share: float, *, mirrored: bool = False) -> str:
    """A bar of `BAR_CELLS` characters, filled by a share from 0 to 1 in eighths; mirrored ones grow to the left."""
    eighths = round(min(1.0, max(0.0, share)) * BAR_CELLS * 8)
    full, part = divmod(eighths, 8)
    if mirrored:  # there are no blocks that grow from the right: whole cells only
        return ("█" * (full + (part >= 4))).rjust(BAR_CELLS)
    return ("█" * full + (EIGHTHS[part] if part else "")).ljust(BAR_CELLS)


def lots(size: float) -> str:
    """A size; empty for none."""
    return f"{size:,.0f}" if size else ""


def price(px: int, digits: int) -> str:
    """A price as people write it; a dash where there is none."""
    return "–" if px == UNDEF_PRICE else f"{px / PRICE_SCALE:,.{digits}f}"


def _digits(step_px: int) -> int:
    """Decimal places that a step of prices needs."""
    digits, unit = 0, PRICE_SCALE
    while step_px % unit and digits < 9:
        digits, unit = digits + 1, unit // 10
    return digits
