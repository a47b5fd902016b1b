"""The cutting rule: a function of the file alone; nothing lost, nothing reordered, never too long."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.blocks import Block, BlockCutter, CutRule, rule_for_speed
from schemas.mbo import F_LAST, MBO_DTYPE

Orders = Callable[..., np.ndarray]


def cut(rule: CutRule, records: np.ndarray, codes: np.ndarray, times: np.ndarray, edges: list[int]) -> list[Block]:
    cutter, out = BlockCutter(rule), []
    for start, stop in zip([0, *edges], [*edges, len(records)], strict=True):
        out += cutter.feed(records[start:stop], codes[start:stop], times[start:stop])
    return out + list(cutter.finish())


def naive(rule: CutRule, records: np.ndarray, codes: np.ndarray, times: np.ndarray) -> list[tuple[int, list[int]]]:
    """The rule as its text says it, one record at a time."""
    pending: dict[int, list[int]] = {}
    out: list[tuple[int, list[int]]] = []

    def close(code: int) -> None:
        places = pending.pop(code)
        lasts = [i for i, p in enumerate(places) if records["flags"][p] & F_LAST and i >= len(places) - rule.near]
        end = lasts[-1] + 1 if lasts else len(places)
        out.append((code, places[:end]))
        if places[end:]:
            pending[code] = places[end:]

    def due(now: int) -> list[tuple[int, int, int]]:
        all_ = [(int(times[p[0]]) + rule.span_ns, p[0], c) for c, p in pending.items()]
        return sorted(d for d in all_ if d[0] <= now)

    for place in range(len(records)):
        while ready := due(int(times[place])):
            close(ready[0][2])
        code = int(codes[place])
        pending.setdefault(code, []).append(place)
        if len(pending[code]) == rule.records_max:
            close(code)
    for code in sorted(pending, key=lambda c: pending[c][0]):
        while code in pending:
            close(code)
    return out


@st.composite
def streams(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = draw(st.integers(1, 60))
    records = np.zeros(size, MBO_DTYPE)
    records["flags"] = draw(st.lists(st.sampled_from([0, F_LAST]), min_size=size, max_size=size))
    records["order_id"] = np.arange(size)
    codes = np.array(draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)), np.int32)
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 3, 40]), min_size=size, max_size=size))
    return records, codes, np.cumsum(np.array(gaps, np.int64))


@given(
    streams(),
    st.builds(CutRule, st.integers(1, 9), st.integers(1, 30), st.integers(1, 5)),
    st.lists(st.integers(0, 60), max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_blocks_are_those_of_the_text_however_the_file_is_read(
    stream: tuple[np.ndarray, np.ndarray, np.ndarray], rule: CutRule, edges: list[int]
) -> None:
    records, codes, times = stream
    want = naive(rule, records, codes, times)
    got = cut(rule, records, codes, times, sorted(min(e, len(records)) for e in edges))
    assert [(b.code, b.records["order_id"].tolist()) for b in got] == want
    for block, (_, places) in zip(got, want, strict=True):
        assert (block.first, block.last) == (places[0], places[-1])
        assert block.t_ns == times[places[-1]]
        assert block.t_ns - times[places[0]] < rule.span_ns
        assert 1 <= len(places) <= rule.records_max
    assert [b.closed_ns for b in got] == sorted(b.closed_ns for b in got)
    for code in range(3):
        mine = [p for c, places in want if c == code for p in places]
        assert mine == np.flatnonzero(codes == code).tolist()


def test_blocks_end_with_an_event_where_one_is_near(make_orders: Orders) -> None:
    rows = make_orders(20_000)
    blocks = cut(CutRule(), rows, np.zeros(len(rows), np.int32), rows["ts_event"].astype(np.int64), [])
    assert len(blocks) == 5
    assert all(block.records["flags"][-1] & F_LAST for block in blocks[:-1])
    assert all(len(block.records) > 4096 - 256 for block in blocks[:-1])


@pytest.mark.parametrize(("speed", "span_ns"), [(float("inf"), 10**10), (1.0, 2 * 10**7), (50.0, 10**9)])
def test_the_rule_follows_the_speed(speed: float, span_ns: int) -> None:
    rule = rule_for_speed(speed)
    assert rule == CutRule(4096, span_ns, 256)
    assert CutRule(**rule.to_dict()) == rule
