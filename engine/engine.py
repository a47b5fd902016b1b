"""The engine as users hold it: records in, rows out.

    engine = Engine(EngineConfig(tick_px=250_000_000))
    start = 0
    while start < len(records):
        output, start = engine.apply(records, start)
        ...                                   # output.bins, output.trades, output.mbp10
    done = False
    while not done:
        output, done = engine.flush()

A pure reducer: what comes out depends on the records, clock messages and flushes that went in and on nothing else; how
the records were cut into calls, and `rows_max`, do not show. A call that raises has changed nothing. An engine is for
one instrument and is not to be used by two threads at once; `apply`, `advance` and `flush` release the GIL.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from operator import index
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from engine import book as l3
from engine import counters, driver, snapshot
from engine.digest import book_digest
from engine.errors import ConfigError
from engine.memory import Memory
from engine.order_index import find
from engine.record_time import TIME_LIMIT_NS, record_times
from engine.records import check_array, complaint
from engine.state import ASK, BID, MACHINE_DTYPE, NONE
from engine.ticks import tick_of
from schemas import bins, mbp10, trades
from schemas.columns import empty_table
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

__all__ = ["LEVEL_TABLE_DTYPE", "Engine", "EngineConfig", "Output", "record_times", "tick_of"]

ROWS_MAX_DEFAULT: Final = 256
"""Rows of bins in one call: 4.3 MB of buffer at 101 ticks. Fewer: a message of a busy market takes several calls; more:
memory for nothing, since a message is cut at 256 rows."""

LEVEL_TABLE_DTYPE: Final = np.dtype([("price", "<i8"), ("size", "<i8"), ("count", "<i4")])
"""A level in `Engine.levels`: price in 1e-9, lots, orders."""

_TAUS: Final = ("tau_v_s", "tau_a_s", "tau_j_s", "tau_mass_s")
RECORDS_MAX: Final = 1 << 16
"""Records that one call looks at. More: records are looked at before the first is applied, so a long array that is
taken in many calls would be looked at over and over. Fewer: calls for nothing."""

_SWITCHES: Final = ("physics", "mbp10")
_PACKED: Final = ("tick_px", "cell_ns", "radius", "n_ticks", "physics", "mbp10", "max_future_ns")
"""Settings that kernels take as they are."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine; all of them shape its output.

    Attributes:
        tick_px: Tick size of the venue, 1e-9, > 0.
        bucket: Ticks of the venue in one tick of the grid; best quotes stay exact prices.
        cell_ns: Width of a bin, ns, 1 us to 1 day.
        radius: Ticks on each side of the mid in the grid vectors; below n_ticks / 4.
        n_ticks: Ticks around the market whose physics is kept, a power of two, 8 to 2^20.
        emission: "active": bins with records, and heartbeats; "dense": every bin.
        max_future_ns: How far a record's time may lie after its ts_recv, ns; 1 s by default, since clocks of venues are
            rarely off by more, and one record from next year would stop the clock until then.
        tau_v_s: Time constant of velocities, s.
        tau_a_s: Time constant of accelerations, s.
        tau_j_s: Time constant of jerks, s.
        tau_mass_s: Time constant of masses, s.
        physics: Whether the grid is kept; without it all its vectors are zero and the book is several times faster.
        mbp10: Whether MBP-10 records are written.
    """

    tick_px: int
    bucket: int = 1
    cell_ns: int = bins.CELL_NS_DEFAULT
    radius: int = bins.RADIUS_DEFAULT
    n_ticks: int = 8192
    emission: Literal["active", "dense"] = "active"
    max_future_ns: int = NS_PER_SECOND
    tau_v_s: float = 2.0
    tau_a_s: float = 5.0
    tau_j_s: float = 10.0
    tau_mass_s: float = 30.0
    physics: bool = True
    mbp10: bool = False

    def __post_init__(self) -> None:
        """Bring numbers to int and float, and check every setting.

        Raises:
            ConfigError: a setting is no number of its kind, or outside its range.
        """
        for field in fields(self):
            if field.name != "emission":
                object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))

        def need(name: str, holds: bool, rule: str) -> None:
            if not holds:
                raise ConfigError(name, getattr(self, name), rule)

        need("tick_px", 0 < self.tick_px < 1 << 62, "a positive int64")
        need("bucket", self.bucket > 0 and self.tick_px * self.bucket < 1 << 62, "positive, with tick_px in int64")
        need("cell_ns", 1_000 <= self.cell_ns <= 86_400 * NS_PER_SECOND, "1 us to 1 day in ns")
        power_of_two = self.n_ticks > 0 and self.n_ticks & (self.n_ticks - 1) == 0
        need("n_ticks", power_of_two and 8 <= self.n_ticks <= 1 << 20, "a power of two from 8 to 2^20")
        need("radius", self.radius >= 0 and 4 * self.radius < self.n_ticks, "from 0 to below n_ticks / 4")
        need("emission", self.emission in ("active", "dense"), "'active' or 'dense'")
        need("max_future_ns", 0 <= self.max_future_ns < 1 << 61, "from 0 to 2^61 ns")
        for name in _TAUS:
            need(name, 1e-3 <= getattr(self, name) <= 1e6, "1 ms to 1e6 s")

    def packed(self) -> np.ndarray:
        """The settings as kernels take them: a machine record, MACHINE_DTYPE[1], that is zero otherwise."""
        out = np.zeros(1, MACHINE_DTYPE)
        for name in _PACKED:
            out[name] = getattr(self, name)
        out["unit_px"] = self.tick_px * self.bucket
        out["dense"] = self.emission == "dense"
        for name in _TAUS:
            out[name.replace("tau", "rate").removesuffix("_s")] = 1.0 / getattr(self, name)
        return out


def _number(name: str, value: Any) -> int | float | bool:
    """A setting as int, float or bool, so that equal settings are stored as equal bytes.

    Raises:
        ConfigError: it is no such number.
    """
    kind = "a number" if name in _TAUS else "True or False" if name in _SWITCHES else "a whole number"
    try:
        if name in _TAUS:
            return float(value)
        if name not in _SWITCHES:
            return index(value)
        if value in (False, True):
            return bool(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(name, value, kind)


class Output(NamedTuple):
    """Rows that a call wrote, in order of time within each table; arrays own their memory.

    Attributes:
        bins: Columns of `schemas.bins.engine_columns(radius)`, shape (rows,) or (rows, width).
        trades: Columns of `schemas.trades.COLUMNS`.
        mbp10: Array of `schemas.mbp10.MBP10_DTYPE`; empty unless the setting `mbp10` is on.
    """

    bins: dict[str, np.ndarray]
    trades: dict[str, np.ndarray]
    mbp10: np.ndarray


class Engine:
    """Order book and physics of one instrument.

    Attributes:
        config: Settings, which do not change.
    """

    def __init__(self, config: EngineConfig) -> None:
        """An engine that has seen nothing."""
        self.config = config
        self._use(Memory(config.packed()))

    def _use(self, memory: Memory) -> None:
        self._memory = memory
        columns = bins.engine_columns(self.config.radius)
        self._no_rows = Output(empty_table(columns), empty_table(trades.COLUMNS), np.zeros(0, mbp10.MBP10_DTYPE))

    # -- input ---------------------------------------------------------------------------------------------------------

    def apply(self, records: np.ndarray, start: int = 0, rows_max: int = ROWS_MAX_DEFAULT) -> tuple[Output, int]:
        """Apply records in order.

        Args:
            records: Contiguous array of `schemas.mbo.MBO_DTYPE`, shape (n,), with one `instrument_id`; n may be 0. Its
                missing values are DBN's: UNDEF_PRICE, UNDEF_SIZE, UNDEF_TIMESTAMP. A later call may bring another
                `instrument_id`, since venues number symbols anew from day to day.
            start: Index of the first record to apply, 0 to n.
            rows_max: The call returns before it would write more rows of bins than this; likewise at fixed numbers of
                trades and MBP-10 records.

        Returns:
            The rows, and the index of the first record not applied. Call again with it until it is len(records); it may
            stay where it was, with rows, when a long gap precedes a record.

        Raises:
            BadRecordsError: the records cannot be applied, told by `records.complaint` (one record) or
                `records.check_array` (the array); nothing has changed.
            IndexError: `start` lies outside the records; nothing has changed.
            ValueError: `rows_max` is below 1; nothing has changed.
            TooManyOrdersError: the book outgrew its index; the engine is to be thrown away.
        """
        check_array(records)
        start, count = index(start), len(records)
        if not 0 <= start <= count:
            raise IndexError(f"start is {start}; there are {count} records")
        end = min(count, start + RECORDS_MAX)
        at, status = self._run(driver.APPLY, rows_max, records.ctypes.data, end, start)
        if status == driver.BAD_RECORD:
            raise complaint(records, at)
        return self._output(), at

    def advance(self, t_ns: int, rows_max: int = ROWS_MAX_DEFAULT) -> tuple[Output, bool]:
        """Take a clock message: bins that end at or before `t_ns` close, engine time becomes `t_ns`.

        A time before the engine's is ignored. Before the first record it only sets the time below which records are
        lifted.

        Args:
            t_ns: Time, ns since the epoch.
            rows_max: The call returns before it would write more rows of bins than this.

        Returns:
            The rows, and whether the clock has arrived; else call again with the same time.

        Raises:
            ValueError: the time is negative or at least 2^62 ns, or `rows_max` is below 1; nothing has changed.
        """
        t_ns = index(t_ns)
        if not 0 <= t_ns < TIME_LIMIT_NS:
            raise ValueError(f"t_ns is {t_ns}; a clock message lies between 1970 and 2116")
        _, status = self._run(driver.ADVANCE, rows_max, t_ns=t_ns)
        return self._output(), status == driver.DONE

    def flush(self, rows_max: int = ROWS_MAX_DEFAULT) -> tuple[Output, bool]:
        """Take the end of input: the open bin closes if it holds a record, and engine time becomes its end.

        Args:
            rows_max: Rows of bins that the buffers are made for; a flush writes one at most.

        Returns:
            The rows, and whether all is done; else call again.

        Raises:
            ValueError: `rows_max` is below 1; nothing has changed.
        """
        _, status = self._run(driver.FLUSH, rows_max)
        return self._output(), status == driver.DONE

    def mark_suspect(self) -> None:
        """Say that input was skipped: the book is SUSPECT until the next clear or snapshot.

        `epoch` rises unless the book is SUSPECT already; a snapshot that is being received ends in SUSPECT instead.
        """
        driver.suspect(self._memory.m)

    def _run(
        self, operation: int, rows_max: int, records_address: int = 0, count: int = 0, start: int = 0, t_ns: int = 0
    ) -> tuple[int, int]:
        """Run the kernel, growing tables as it asks for it; see `driver.run`."""
        memory = self._memory
        if rows_max != memory.bin_room:
            if rows_max < 1:
                raise ValueError(f"rows_max is {rows_max}; it must be at least 1")
            memory.make_buffers(rows_max)
        at, status = driver.run(memory.address, operation, 0, records_address, count, start, t_ns)
        while status == driver.NO_ROOM:
            memory.grow()
            at, status = driver.run(memory.address, operation, 1, records_address, count, at, t_ns)
        return at, status

    def _output(self) -> Output:
        """Copy what the buffers hold."""
        memory, none = self._memory, self._no_rows
        n_bins, n_trades, n_mbp = memory.rows_written()
        if not (n_bins or n_trades or n_mbp):
            return Output(dict(none.bins), dict(none.trades), none.mbp10)
        return Output(
            {name: column[:n_bins].copy() for name, column in memory.bin_columns.items()}
            if n_bins
            else dict(none.bins),
            {name: column[:n_trades].copy() for name, column in memory.trade_columns.items()}
            if n_trades
            else dict(none.trades),
            memory.arrays["mbp_rows"][:n_mbp].copy() if n_mbp else none.mbp10,
        )

    # -- state ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Everything the engine knows, settings included, as `engine.snapshot` says; equal engines give equal bytes."""
        return snapshot.dump(self._memory, asdict(self.config))

    @classmethod
    def restore(cls, data: bytes) -> "Engine":
        """The engine that `snapshot` described; it goes on bit for bit.

        Args:
            data: What `snapshot` gave.

        Returns:
            An engine of its own, with the settings in the bytes.

        Raises:
            SnapshotError: the bytes are no snapshot, damaged, or of another version.
        """
        engine = cls.__new__(cls)
        engine.config = EngineConfig(**snapshot.read_settings(data))
        engine._use(snapshot.load(data, engine.config.packed()))
        return engine

    def __reduce__(self) -> tuple[Callable[[bytes], "Engine"], tuple[bytes]]:
        """Copies and pickles go by a snapshot: kernels know an engine's memory by its addresses."""
        return Engine.restore, (self.snapshot(),)

    def digest(self) -> str:
        """Hash of the book, SHA-256 as 64 hex digits, see `digest`; equal books have equal digests."""
        return book_digest(self._memory)

    def queue_position(self, order_id: int) -> tuple[int, int] | None:
        """How much stands before an order at its level, by price-time priority.

        Args:
            order_id: The venue's id, 0 to 2^64 - 1.

        Returns:
            Lots and orders ahead of it; None if it does not rest.

        Raises:
            OverflowError: the id is outside uint64.
        """
        slot = find(self._memory.m, np.uint64(order_id))
        if slot == NONE:
            return None
        lots, orders = l3.queue_ahead(self._memory.m, slot)
        return int(lots), int(orders)

    def levels(self, side: Literal["B", "A"]) -> np.ndarray:
        """All levels of a side, by exact price.

        Args:
            side: "B" for bids, "A" for asks.

        Returns:
            Array of LEVEL_TABLE_DTYPE, shape (levels,), best first; it is the caller's. Empty if the side is.

        Raises:
            KeyError: the side is neither.
        """
        index = {"B": BID, "A": ASK}[side]
        flat = np.zeros((self.bid_levels if index == BID else self.ask_levels, 3), np.int64)
        l3.top_levels(self._memory.m, index, flat, 0)
        out = np.zeros(len(flat), LEVEL_TABLE_DTYPE)
        for i, name in enumerate(("price", "size", "count")):
            out[name] = flat[:, i]
        return out

    @property
    def counters(self) -> dict[str, int]:
        """Totals of the ten counters since the start, see `counters`."""
        return {name: int(n) for name, n in zip(counters.NAMES, self._memory.arrays["counts"], strict=True)}

    @property
    def t_ns(self) -> int:
        """Engine time, ns since the epoch; 0 before the first record or clock message."""
        return int(self._memory.state["t_ns"])

    @property
    def records(self) -> int:
        """Records applied or counted as odd, since the start; `event_id` of the last one."""
        return int(self._memory.state["event_id"])

    @property
    def last_sequence(self) -> int:
        """Venue's sequence number of the last record; 0 before the first."""
        return int(self._memory.state["last_sequence"])

    @property
    def bins_emitted(self) -> int:
        """Rows of bins since the start."""
        return int(self._memory.state["bins_emitted"])

    @property
    def book_state(self) -> int:
        """0 PARTIAL, 1 SNAPSHOT, 2 VALID, 3 SUSPECT."""
        return int(self._memory.state["book_state"])

    @property
    def epoch(self) -> int:
        """Resets, snapshot ends and changes to SUSPECT so far."""
        return int(self._memory.state["epoch"])

    @property
    def orders(self) -> int:
        """Orders that rest."""
        return int(self._memory.m["orders"])

    @property
    def bid_levels(self) -> int:
        """Bid levels, by exact price."""
        return int(self._memory.m["bid_levels"])

    @property
    def ask_levels(self) -> int:
        """Ask levels, by exact price."""
        return int(self._memory.m["ask_levels"])

    @property
    def best_bid_px(self) -> int:
        """Best bid price, 1e-9; UNDEF_PRICE if there is none."""
        return self._best(BID, "px", UNDEF_PRICE)

    @property
    def best_bid_sz(self) -> int:
        """Lots at the best bid; 0 if there is none."""
        return self._best(BID, "size", 0)

    @property
    def best_bid_ct(self) -> int:
        """Orders at the best bid; 0 if there is none."""
        return self._best(BID, "count", 0)

    @property
    def best_ask_px(self) -> int:
        """Best ask price, 1e-9; UNDEF_PRICE if there is none."""
        return self._best(ASK, "px", UNDEF_PRICE)

    @property
    def best_ask_sz(self) -> int:
        """Lots at the best ask; 0 if there is none."""
        return self._best(ASK, "size", 0)

    @property
    def best_ask_ct(self) -> int:
        """Orders at the best ask; 0 if there is none."""
        return self._best(ASK, "count", 0)

    def _best(self, side: int, field: str, missing: int) -> int:
        """A field of the best level of a side."""
        memory = self._memory
        count = int(memory.m["bid_levels" if side == BID else "ask_levels"])
        levels, ladder = memory.arrays["levels"], memory.arrays["ladder"]
        return int(levels[ladder[side, count - 1]][field]) if count else missing
