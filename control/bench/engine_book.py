"""Rows of the book: alone, deep, with physics, against peers, and on real tapes."""

from collections.abc import Callable
from typing import Final

from control.bench import calibration
from control.bench.engine_runs import (
    BLOCK,
    book_run,
    check,
    conditions,
    cut,
    feed,
    plain_shape,
    real_tape,
    records_of,
    swept_shape,
)
from control.bench.measure import Bound, Row, Skip, cpu
from control.bench.oracle import book_of
from control.bench.peers import Peer
from control.bench.session import Session
from engine.engine import Engine, EngineConfig

PEER_GATES: Final = {"nautilus": 15.0, "hftbacktest": 28.0}
"""Peers, and how many times faster than each the book must be."""


def book_l3(session: Session) -> list[Row]:
    """The book alone, beside a loop that only touches the records."""
    shape = plain_shape(session)
    records = session.stream(shape)[0].records

    def touch() -> float:
        return calibration.touch_ns(records) * len(records) / 1e9

    ours, floor = session.interleave([book_run(session, "book_l3", shape, physics=False), touch])
    return [
        Row(
            "book_l3",
            ours.per_second(shape.records),
            "records/s",
            "touch_loop",
            floor.per_second(shape.records),
            aim=Bound(">=", 20e6),
            conditions=conditions(session, shape, physics=False),
        )
    ]


def book_l3_deep(session: Session) -> list[Row]:
    """Queues of 2,000 and 200,000 live orders: nothing may depend on how long a queue is."""
    shape, plain = swept_shape(session, 50, 2_000), plain_shape(session)
    deep, base = session.interleave(
        [book_run(session, "book_l3_deep", shape, physics=False), book_run(session, "book_l3", plain, physics=False)],
    )
    return [
        Row(
            "book_l3_deep",
            deep.per_second(shape.records),
            "records/s",
            "book_l3",
            base.per_second(plain.records),
            gate=Bound(">=", 0.8),
            conditions=conditions(session, shape, physics=False),
        )
    ]


def book_physics(session: Session) -> list[Row]:
    """The whole engine, bins of 100 ms, beside the book alone."""
    shape = plain_shape(session)
    ours, base = session.interleave(
        [book_run(session, "book_physics", shape, physics=True), book_run(session, "book_l3", shape, physics=False)],
    )
    return [
        Row(
            "book_physics",
            ours.per_second(shape.records),
            "records/s",
            "book_l3",
            base.per_second(shape.records),
            gate=Bound(">=", 0.25),
            aim=Bound(">=", 5e6),
            conditions=conditions(session, shape, physics=True),
        )
    ]


def against(name: str) -> Callable[[Session], list[Row]]:
    """The row that compares `book_l3` with a peer, their runs in turns on the same records."""

    def measure(session: Session) -> list[Row]:
        if session.quick:
            raise Skip(f"peer_{name}_l3 takes longer than a quick bench may")
        shape = plain_shape(session)
        stream, _ = session.stream(shape)
        with Peer(name, session.peers, stream) as peer:
            ours, _ = session.interleave([book_run(session, "book_l3", shape, physics=False), peer.run])
            book = book_of((stream.opening, stream.records))
            peer.check({"bids": book.levels(b"B"), "asks": book.levels(b"A")})
            variant, theirs = peer.best()
            told = {"peer": peer.hello, "variant": variant, "variants_s": peer.medians()}
        return [
            Row(
                f"book_l3_vs_{name}",
                ours.per_second(shape.records),
                "records/s",
                f"peer_{name}_l3",
                theirs.per_second(shape.records),
                gate=Bound(">=", PEER_GATES[name]),
                conditions=conditions(session, shape, physics=False) | told,
            )
        ]

    return measure


def tape(name: str) -> Callable[[Session], list[Row]]:
    """The row of a real tape, from its first record on."""
    row = f"book_physics_{name}"

    def measure(session: Session) -> list[Row]:
        path, tick_px = real_tape(session, name)
        records = records_of(path)
        book = book_of([records])
        truth, blocks = book.digest(tick_px), cut(records, BLOCK)

        def run() -> float:
            engine = Engine(EngineConfig(tick_px=tick_px))
            with cpu() as watch:
                feed(engine, blocks)
            check(row, engine, truth)
            return watch.seconds

        def touch() -> float:
            return calibration.touch_ns(records) * len(records) / 1e9

        ours, floor = session.interleave([run, touch])
        told = {
            "tape": path.name,
            "records": len(records),
            "orders_at_end": book.orders,
            "block": BLOCK,
            "digest": truth,
        }
        rate, base = ours.per_second(len(records)), floor.per_second(len(records))
        return [Row(row, rate, "records/s", "touch_loop", base, conditions=told)]

    return measure
