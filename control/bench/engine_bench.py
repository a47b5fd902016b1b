"""Bench `engine`: what a record, a bin, a call and a start cost, in the engine alone.

Every run makes a fresh engine, fills its book untimed with the stream's opening records, and then applies the measured
ones in blocks, outputs included. After each run the digest of the book must equal that of the slow book.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from time import process_time_ns
from typing import Any, Final

import numpy as np
from numba import njit

from control.bench import calibration
from control.bench.measure import Bound, Figure, Row, Skip, Timed, cpu, interleave
from control.bench.oracle import WrongAnswerError, book_of
from control.bench.peers import Peer
from control.bench.session import Case, Session
from control.bench.synthetic import Shape, Stream
from connectors.dbn_file import DbnFile
from engine.engine import Engine, EngineConfig, Output, validate

_ROOT: Final = Path(__file__).parent.parent.parent
BLOCK: Final = 4_096
PER_BIN: Final = 7_600
"""Records in a bin of 100 ms at 76,000 records a second, a busy future in a busy minute."""


def config(stream: Stream, physics: bool = True) -> EngineConfig:
    """Engine settings for a stream."""
    options: dict[str, Any] = {} if physics or not has_book_only() else {"physics": False}
    return EngineConfig(tick_px=stream.tick_px, cell_ns=stream.cell_ns, **options)


def has_book_only() -> bool:
    """Whether the engine can be run without physics."""
    return any(f.name == "physics" for f in fields(EngineConfig))


def feed(engine: Engine, blocks: Sequence[np.ndarray], take: Callable[[Output], None] | None = None) -> None:
    """Apply blocks one after the other; outputs go to `take`, or nowhere."""
    for block in blocks:
        start = 0
        while start < len(block):
            output, start = engine.apply(block, start)
            if take is not None:
                take(output)


def cut(records: np.ndarray, length: int) -> list[np.ndarray]:
    """Records in blocks, the last one shorter."""
    return [records[i : i + length] for i in range(0, len(records), length)]


def check(row: str, engine: Engine, truth: str) -> None:
    """Compare the book with the slow one's.

    Raises:
        WrongAnswerError: they differ.
    """
    if (found := engine.digest()) != truth:
        raise WrongAnswerError(row, f"the book's digest is {found[:16]}, that of the slow book is {truth[:16]}")


def book_run(session: Session, row: str, shape: Shape, physics: bool, block: int = BLOCK) -> Timed:
    """A run over a stream: opening untimed, records timed, digest checked."""
    stream, truth = session.stream(shape)
    blocks, settings = cut(stream.records, block), config(stream, physics)

    def run() -> float:
        engine = Engine(settings)
        feed(engine, [stream.opening])
        with cpu() as watch:
            feed(engine, blocks)
        check(row, engine, truth)
        return watch.seconds

    return run


def conditions(session: Session, shape: Shape, **more: Any) -> dict[str, Any]:
    """Everything needed to measure a row on this stream again."""
    return shape.conditions() | {"block": BLOCK, "digest": session.stream(shape)[1]} | more


# -- shapes ------------------------------------------------------------------------------------------------------------


def plain_shape(session: Session, records: int = 1_000_000) -> Shape:
    """The stream of most rows: 20,000 live orders in queues of 455, as near the touch of a large future."""
    return Shape(session.scaled(records // 10, records), levels=22, queue=455, per_bin=PER_BIN)


def swept_shape(session: Session, levels: int, queue: int) -> Shape:
    """One point of a sweep; its churn lets every order of the opening be replaced about once."""
    records = session.scaled(60_000, 500_000)
    churn = session.scaled(20_000, max(50_000, 4 * levels * queue))
    return Shape(records, levels, queue, PER_BIN, churn=churn)


# -- rows --------------------------------------------------------------------------------------------------------------


def book_l3(session: Session) -> list[Row]:
    """The book alone, beside a loop that only touches the records."""
    shape = plain_shape(session)
    records = session.stream(shape)[0].records

    def touch() -> float:
        return calibration.touch_ns(records) * len(records) / 1e9

    ours, floor = interleave(session.runs, [book_run(session, "book_l3", shape, physics=False), touch])
    return [
        Row(
            "book_l3",
            ours.per_second(shape.records),
            "records/s",
            "touch_loop",
            floor.per_second(shape.records),
            aim=Bound(">=", 20e6),
            conditions=conditions(session, shape, physics=not has_book_only()),
        )
    ]


def book_l3_deep(session: Session) -> list[Row]:
    """Queues of 2,000 and 200,000 live orders: nothing may depend on how long a queue is."""
    shape, plain = swept_shape(session, 50, 2_000), plain_shape(session)
    deep, base = interleave(
        session.runs,
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
            conditions=conditions(session, shape, physics=not has_book_only()),
        )
    ]


def book_physics(session: Session) -> list[Row]:
    """The whole engine, bins of 100 ms, beside the book alone."""
    shape = plain_shape(session)
    ours, base = interleave(
        session.runs,
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


def _sweep(session: Session, name: str, points: Sequence[tuple[int, Shape]]) -> list[Row]:
    """`book_physics` on several streams in turns, each against the first."""
    runs = [book_run(session, f"{name}_{n}", shape, physics=True) for n, shape in points]
    figures = interleave(session.runs, runs)
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


BINS_BLOCK: Final = 1_024


def bins_per_s(session: Session) -> list[Row]:
    """Six records a bin, as in a real stock's tape: bins are nearly all of the cost; beside copying their bytes."""
    bins = session.scaled(1_000, 8_000)
    shape = Shape(6 * bins, levels=100, queue=20, per_bin=6)
    stream = session.stream(shape)[0]
    outputs: list[Output] = []
    feed(Engine(config(stream)), [stream.opening, *cut(stream.records, BINS_BLOCK)], outputs.append)
    arrays = [array for output in outputs for table in (output.bins, output.trades) for array in table.values()]
    rows = sum(len(output.bins["bin_seq"]) for output in outputs)
    if rows < bins - 1:
        raise WrongAnswerError("bins_per_s", f"{rows} bins came out of {bins}")

    def copy() -> float:
        with cpu() as watch:
            for array in arrays:
                array.copy()
        return watch.seconds

    run = book_run(session, "bins_per_s", shape, physics=True, block=BINS_BLOCK)
    ours, base = interleave(session.runs, [run, copy])
    size = sum(array.nbytes for array in arrays)
    told = conditions(session, shape, physics=True) | {"block": BINS_BLOCK, "radius": 50, "bytes_per_bin": size // rows}
    return [
        Row(
            "bins_per_s",
            ours.per_second(rows),
            "bins/s",
            "copy_same_bytes",
            base.per_second(rows),
            aim=Bound(">=", 40e3),
            conditions=told,
        )
    ]


@njit(cache=True, nogil=True)
def _empty(machine: np.ndarray, operation: int, records: np.ndarray, start: int, t_ns: int) -> tuple[int, int]:
    """Nothing, with the signature of the engine's kernel: what a call from Python costs at least."""
    return start, 0


CALL: Final = 64


def call_64(session: Session) -> list[Row]:
    """Each call of 64 records timed alone, bins that close among them; beside an empty compiled function."""
    shape = plain_shape(session, 640_000)
    stream, truth = session.stream(shape)
    blocks = cut(stream.records, CALL)
    views, machine = [validate(block) for block in blocks], config(stream).packed()
    _empty(machine, 0, views[0], 0, 0)

    def engine_calls() -> np.ndarray:
        engine = Engine(config(stream))
        feed(engine, [stream.opening])
        taken = _time_each(lambda i: feed(engine, blocks[i : i + 1]), len(blocks))
        check("call_64", engine, truth)
        return taken

    def empty_calls() -> np.ndarray:
        return _time_each(lambda i: _empty(machine, 0, views[i], 0, 0), len(blocks))

    turns = [(engine_calls(), empty_calls()) for _ in range(session.runs + 1)][1:]
    rows = []
    for percent, aim in ((50, 6.0), (99, 20.0)):
        ours, base = (Figure(tuple(float(np.percentile(turn[n], percent)) for turn in turns)) for n in (0, 1))
        told = conditions(session, shape, physics=True) | {"block": CALL, "calls": len(blocks)}
        row = f"call_64_p{percent}"
        rows.append(Row(row, ours, f"us p{percent}", "empty_call", base, aim=Bound("<=", aim), conditions=told))
    return rows


def _time_each(call: Callable[[int], object], count: int) -> np.ndarray:
    """Process CPU time of each call, us; the clock's own 0.3 us is part of it."""
    taken = np.empty(count)
    with cpu():
        for i in range(count):
            begin = process_time_ns()
            call(i)
            taken[i] = process_time_ns() - begin
    return taken / 1e3


def _against(name: str) -> Callable[[Session], list[Row]]:
    """The row that compares `book_l3` with a peer, their runs in turns on the same records."""

    def measure(session: Session) -> list[Row]:
        if session.quick:
            raise Skip(f"peer_{name}_l3 takes longer than a quick bench may")
        shape = plain_shape(session)
        stream, _ = session.stream(shape)
        with Peer(name, session.peers, stream) as peer:
            ours, _ = interleave(session.runs, [book_run(session, "book_l3", shape, physics=False), peer.run])
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
                conditions=conditions(session, shape, physics=not has_book_only()) | told,
            )
        ]

    return measure


PEER_GATES: Final = {"nautilus": 15.0, "hftbacktest": 28.0}

INSTRUMENTS: Final = (1, 10, 100)
INSTRUMENTS_BLOCK: Final = 1_024
_SEEDS: Final = 4
"""Different streams among the instruments; more would only cost the slow book time."""


def _instruments_run(session: Session, count: int, records: int) -> Timed:
    """Blocks of several instruments in turns, each with an engine and memory of its own."""
    shapes = [Shape(records // count, 100, 20, PER_BIN, seed=n) for n in range(min(count, _SEEDS))]
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
    records = session.scaled(100_000, 1_000_000)
    figures = interleave(session.runs, [_instruments_run(session, n, records) for n in INSTRUMENTS])
    rates = [figure.per_second(records) for figure in figures]
    rows = []
    for count, rate in zip(INSTRUMENTS, rates, strict=True):
        shape = Shape(records // count, 100, 20, PER_BIN, seed=0)
        told = conditions(session, shape, physics=True)
        told |= {"block": INSTRUMENTS_BLOCK, "instruments": count, "seeds": min(count, _SEEDS), "all_records": records}
        base = None if count == 1 else rates[0]
        rows.append(
            Row(f"instruments_{count}", rate, "records/s", "instruments_1" if base else "", base, conditions=told)
        )
    return rows


_IMPORTS: Final = "import time; t = time.process_time(); import numba, pyarrow; print(time.process_time() - t)"
_FIRST_BIN: Final = """
import time
t = time.process_time()
import pyarrow
import numpy as np
from connectors.dbn_file import DbnFile
from engine.engine import Engine, EngineConfig
from schemas import bins, mbo
from schemas.columns import to_arrow
records = np.zeros(2, mbo.MBO_DTYPE)
records["length"], records["rtype"], records["action"], records["size"] = 14, mbo.MBO_RTYPE, b"A", 1
records["ts_event"] = records["ts_recv"] = 10**18
records["order_id"], records["side"], records["price"] = (1, 2), (b"B", b"A"), (10**9, 2 * 10**9)
engine = Engine(EngineConfig(tick_px=10**9))
engine.apply(records)
output, _ = engine.flush()
assert to_arrow(output.bins, bins.engine_columns(bins.RADIUS_DEFAULT)).num_rows == 1
print(time.process_time() - t)
"""


def _process(code: str) -> float:
    """Seconds that a fresh interpreter says its code took."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    return float(done.stdout)


def start_warm(session: Session) -> list[Row]:
    """A fresh process from import to the first bin as Arrow, compiled kernels on disk; beside two imports alone."""
    ours, base = interleave(session.runs, [lambda: _process(_FIRST_BIN), lambda: _process(_IMPORTS)])
    told = {"clock": "process CPU time of the child from its first import on", "cache": "warm"}
    row = Row("start_warm", ours, "s", "import_numba_pyarrow", base, gate=Bound("<=", 2.5), conditions=told)
    return [row]


TAPES: Final = {
    "esh4": ("dbn/esh4-glbx-mdp3-20231225.mbo.dbn.zst", 250_000_000),
    "aapl": ("derived/AAPL_20120621_lobster50.mbo.dbn.zst", 10_000_000),
}
"""Real tapes below the folder of market data, and their tick sizes."""


def _tape(name: str) -> Callable[[Session], list[Row]]:
    """The row of a real tape, from its first record on."""
    row, (place, tick_px) = f"book_physics_{name}", TAPES[name]

    def measure(session: Session) -> list[Row]:
        path = (session.market_data or Path()) / place
        if session.market_data is None or not path.is_file():
            raise Skip(f"no real tape {place}; BAROGRAPH_DATA or --market-data names its folder")
        with DbnFile(path) as file:
            records = np.concatenate([run.mbo() for run in file.runs()])
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

        ours, floor = interleave(session.runs, [run, touch])
        told = {"tape": place, "records": len(records), "orders_at_end": book.orders, "block": BLOCK, "digest": truth}
        rate, base = ours.per_second(len(records)), floor.per_second(len(records))
        return [Row(row, rate, "records/s", "touch_loop", base, conditions=told)]

    return measure


CASES: Final = (
    Case("book_l3", ("book_l3",), book_l3),
    *(Case(f"book_l3_vs_{name}", (f"book_l3_vs_{name}",), _against(name)) for name in PEER_GATES),
    Case("book_l3_deep", ("book_l3_deep",), book_l3_deep),
    Case("book_physics", ("book_physics",), book_physics),
    Case("sweep_orders", tuple(f"sweep_orders_{n}" for n in SWEEP_ORDERS), sweep_orders),
    Case("sweep_queue", tuple(f"sweep_queue_{n}" for n in SWEEP_QUEUE), sweep_queue),
    Case("instruments", tuple(f"instruments_{n}" for n in INSTRUMENTS), instruments),
    Case("bins_per_s", ("bins_per_s",), bins_per_s),
    Case("call_64", ("call_64_p50", "call_64_p99"), call_64),
    Case("start_warm", ("start_warm",), start_warm),
    *(Case(f"book_physics_{name}", (f"book_physics_{name}",), _tape(name)) for name in TAPES),
)
