"""Rows that vary one property of the market and keep the rest: live orders, length of queues, instruments."""

from collections.abc import Sequence
from typing import Final

from control.bench.engine_runs import PER_BIN, book_run, check, conditions, config, cut, feed, swept_shape
from control.bench.measure import Bound, Row, Timed, cpu
from control.bench.session import Session
from control.bench.synthetic import Shape
from engine.engine import Engine


def _sweep(session: Session, name: str, points: Sequence[tuple[int, Shape]]) -> list[Row]:
    """`book_physics` on several streams in turns, each against the first."""
    runs = [book_run(session, f"{name}_{n}", shape, physics=True) for n, shape in points]
    figures = session.interleave(runs)
    rates = [figure.per_second(shape.records) for figure, (_, shape) in zip(figures, points, strict=True)]
    first = f"{name}_{points[0][0]}"
    return [
        Row(
            f"{name}_{n}",
            rate,
            "records/s",
            "" if rate is rates[0] else first,
            None if rate is rates[0] else rates[0],
            gate=None if rate is rates[0] else Bound(">=", 0.8),
            conditions=conditions(session, shape, physics=True),
        )
        for rate, (n, shape) in zip(rates, points, strict=True)
    ]


SWEEP_ORDERS: Final = (10_000, 50_000, 200_000)
SWEEP_QUEUE: Final = (1, 100, 2_000)


def sweep_orders(session: Session) -> list[Row]:
    """More live orders on the same 100 levels a side."""
    return _sweep(session, "sweep_orders", [(n, swept_shape(session, 100, n // 200)) for n in SWEEP_ORDERS])


def sweep_queue(session: Session) -> list[Row]:
    """Longer queues on the same 50 levels a side."""
    return _sweep(session, "sweep_queue", [(n, swept_shape(session, 50, n)) for n in SWEEP_QUEUE])


INSTRUMENTS: Final = (1, 10, 100)
INSTRUMENTS_BLOCK: Final = 1_024
_SEEDS: Final = 4
"""Different streams among the instruments; more would only cost the slow book time."""


def _instrument_shape(records: int, count: int, seed: int) -> Shape:
    """The stream of one of several instruments: 4,000 live orders each."""
    return Shape(records // count, levels=100, queue=20, per_bin=PER_BIN, churn=8_000, seed=seed)


def _instruments_run(session: Session, count: int, records: int) -> Timed:
    """Blocks of several instruments in turns, each with an engine and memory of its own."""
    shapes = [_instrument_shape(records, count, seed) for seed in range(min(count, _SEEDS))]
    streams = [session.stream(shapes[n % _SEEDS]) for n in range(count)]
    cuts = [cut(stream.records.copy(), INSTRUMENTS_BLOCK) for stream, _ in streams]
    order = [(n, blocks[i]) for i in range(len(cuts[0])) for n, blocks in enumerate(cuts)]

    def run() -> float:
        engines = [Engine(config(stream)) for stream, _ in streams]
        for engine, (stream, _) in zip(engines, streams, strict=True):
            feed(engine, [stream.opening])
        with cpu() as watch:
            for n, block in order:
                feed(engines[n], [block])
        for engine, (_, truth) in zip(engines, streams, strict=True):
            check(f"instruments_{count}", engine, truth)
        return watch.seconds

    return run


def instruments(session: Session) -> list[Row]:
    """The same number of records over more instruments: what leaving the cache costs."""
    records = session.scaled(50_000, 1_000_000)
    figures = session.interleave([_instruments_run(session, n, records) for n in INSTRUMENTS])
    rates = [figure.per_second(records) for figure in figures]
    rows = []
    for count, rate in zip(INSTRUMENTS, rates, strict=True):
        shape = _instrument_shape(records, count, 0)
        told = conditions(session, shape, physics=True)
        told |= {"block": INSTRUMENTS_BLOCK, "instruments": count, "seeds": min(count, _SEEDS), "all_records": records}
        base = None if count == 1 else rates[0]
        rows.append(
            Row(f"instruments_{count}", rate, "records/s", "instruments_1" if base else "", base, conditions=told)
        )
    return rows
