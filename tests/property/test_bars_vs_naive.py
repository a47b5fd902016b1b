"""Bars of random trades, cut and restarted anywhere: those of the definition, one trade at a time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codec import decode_rows, encode_rows
from schemas import bars, topics, trades
from schemas.columns import Table, concat_tables, empty_table, slice_table
from schemas.envelope import Envelope, crc32
from schemas.message import Message, Outgoing
from schemas.units import UNDEF_PRICE
from streams.build_bars import bars_stage
from streams.partition import PartitionState, Place, rows_per_part
from tests.naive.bars import bars_of

PRICES = st.one_of(st.integers(-(10**4), 10**4), st.integers(10**13, 10**14), st.just(UNDEF_PRICE))
SIZES = st.one_of(st.integers(0, 9), st.integers(10**6, (1 << 32) - 2))  # with the large prices: beyond 64 bits
TRADES = st.lists(st.tuples(st.integers(0, 40), PRICES, SIZES, st.sampled_from([-1, 0, 1])), max_size=60)
WIDTHS = st.lists(st.integers(1, 200), min_size=1, max_size=3, unique=True)
PLACE = Place("t1", "main", 0, 0, "run0")


def table_of(steps: Sequence[tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
    table = empty_table(trades.COLUMNS, len(steps))
    for i, (_, px, sz, side) in enumerate(steps):
        table["px"][i], table["sz"][i], table["side"][i] = px, sz, side
    table["ts_ns"][:] = np.cumsum([step[0] for step in steps]) if steps else 0
    return table


def root(seq: int, kind: str, parts: Sequence[Table], t: int) -> list[Message]:
    """The parts of one root message on the trades topic; all carry the time after all of them."""
    out = []
    for part, table in enumerate(parts):
        value, last = encode_rows(table, trades.COLUMNS), part == len(parts) - 1
        count = len(table["ts_ns"])
        envelope = Envelope(kind, "trades", count=count, crc32=crc32(value), t=t, seq=seq, part=part, last=last)  # type: ignore[arg-type]
        out.append(Message("t1.main.trades.v1", 0, seq, 0, "V:S", value, envelope))
    return out


@st.composite
def tapes(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[list[Message]]]:
    """Trades, and the same as root messages: definition, blocks in parts with clocks and quiet blocks between, end."""
    table = table_of(draw(TRADES))
    times, count = table["ts_ns"].tolist(), len(table["ts_ns"])
    cuts = sorted({0, count, *draw(st.lists(st.integers(0, count), max_size=8))})
    roots = [root(0, "definition", [empty_table(trades.COLUMNS)], 0)]
    for start, stop in pairwise(cuts):
        inner = sorted({start, stop, *draw(st.lists(st.integers(start, stop), max_size=3))})
        parts = [slice_table(table, a, b) for a, b in pairwise(inner)]
        latest = times[stop] if stop < count else times[-1] + 300
        at = st.integers(times[stop - 1], latest)  # engine time: not before these trades, not after the next
        roots.append(root(len(roots), "data", parts, t := draw(at)))
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["clock", "data"]))
            quiet = [empty_table(trades.COLUMNS)]
            roots.append(root(len(roots), kind, quiet, draw(st.integers(t, latest))))
    roots.append(root(len(roots), "end", [empty_table(trades.COLUMNS)], times[-1] if times else 0))
    return table, roots


def run(roots: Sequence[Sequence[Message]], widths: list[int], restarts: Sequence[tuple[int, int]]) -> list[Outgoing]:
    """All outputs; a restart (root, parts) dies after so many parts of a root and begins it again from stored state."""
    stage, out = bars_stage({"intervals_ns": widths}), list[Outgoing]()
    state = PartitionState(stage, PLACE, stage.reducer(), 0)
    for seq, parts in enumerate(roots):
        for _, done in (r for r in restarts if r[0] % len(roots) == seq):
            pieces = dict(state.reducer.snapshot())
            for part in parts[:done]:
                state.take(part)
            state = PartitionState(stage, PLACE, stage.reducer(), seq)
            state.reducer.restore(pieces)
        made = [outgoing for part in parts for outgoing in state.take(part) or ()]
        heads = [(o.envelope.seq, o.envelope.part, o.envelope.last) for o in made]
        assert heads == [(seq, i, i == len(made) - 1) for i in range(len(made))]
        assert len(made) == 1 or all(o.envelope.count for o in made), "an empty part stands alone"
        out += made
    return out


def rows_of(outgoing: Sequence[Outgoing]) -> dict[str, np.ndarray]:
    return concat_tables([decode_rows(o.value, bars.COLUMNS) for o in outgoing], bars.COLUMNS)


def as_dicts(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*(a.tolist() for a in table.values()), strict=True)]


@settings(max_examples=150, deadline=None)
@given(tapes(), WIDTHS, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3)), max_size=4))
def test_bars_are_those_of_the_definition(
    tape: tuple[dict[str, np.ndarray], list[list[Message]]], widths: list[int], restarts: list[tuple[int, int]]
) -> None:
    table, roots = tape
    found = run(roots, widths, restarts)
    assert as_dicts(rows_of(found)) == bars_of(as_dicts(table), widths)
    assert found == run(roots, widths, ()), "a restart shows"
    assert all(o.topic == topics.BARS.name("t1") for o in found)


def test_parts_of_a_root_do_not_show_in_its_outputs() -> None:
    """A thousand bars of one root message: the same output messages, whichever parts the trades came in."""
    table = table_of([(1, i, 1, 1) for i in range(1000)])
    whole = root(0, "data", [table], 2000)

    def cut(size: int) -> list[Message]:
        return root(0, "data", [slice_table(table, a, min(1000, a + size)) for a in range(0, 1000, size)], 2000)

    wanted = run([whole], [1], ())
    size = rows_per_part(bars.COLUMNS)
    assert [o.envelope.count for o in wanted] == [size, size, size, 1000 - 3 * size]
    assert run([cut(256)], [1], ()) == wanted
    assert run([cut(7)], [1], ()) == wanted
