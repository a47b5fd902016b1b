"""Gold as users hold it: rows of bins in, rows of pressure, its differences and the flow score out.

    gold = Gold(GoldConfig(), cell_ns=100_000_000, unit_px=250_000_000, radius=50)
    output, start = engine.apply(records, start)
    rows = gold.apply(output.bins)             # columns of schemas.gold.columns(50)

A pure reducer: how the rows of bins were cut into calls does not show in any bit, and a call that raises has changed
nothing. A `Gold` is for one instrument and is not to be used by two threads at once; `apply` releases the GIL. What is
computed stands in `gold_rows`.

A row whose `bins_since_reset` is 0 forgets all earlier rows before its own step, also if the row itself gets no gold:
the book it rests on is another one either way. A row in SNAPSHOT or SUSPECT, or without a mid, gets zeros and
`gold_valid` 0, and the series go on as if it had not been.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from engine import gold_rows
from engine.errors import BadBinsError, ConfigError
from engine.framing import pack, unpack
from engine.gold_rows import INPUTS, KEY_DTYPE, ORDERS, SETTINGS_DTYPE, STATE_DTYPE, Memory
from schemas import bins, gold
from schemas.columns import Table
from schemas.units import NS_PER_SECOND

__all__ = ["BadBinsError", "Gold", "GoldConfig"]

StateTable: TypeAlias = Literal["symmetric", "original"]

_BULL: Final = (1, 2)
_BEAR: Final = (-2, -1)
_STATE_TABLES: Final[Mapping[str, Mapping[tuple[int, int], tuple[int, int]]]] = {
    "symmetric": {
        **{signs: _BULL for signs in ((1, 1), (0, 1))},
        **{signs: _BEAR for signs in ((-1, -1), (-1, 0))},
        (1, 0): (0, 2),
        (0, -1): (-2, 0),
    },
    "original": {
        **{signs: _BULL for signs in ((1, 1), (0, 1))},
        **{signs: _BEAR for signs in ((-1, -1), (-1, 0), (1, 0), (1, -1), (0, -1))},
    },
}
"""state5 (below the mid, above it) by signs (ask, bid) of the moves of the best quotes; 0 for signs that are missing.

"symmetric": exchanging up and down negates it. "original": the table of the system this one descends from, in which a
lone rise of the ask and a widening spread are bear signs; kept for comparison with its results.
"""

_COEFFICIENTS: Final = (
    "c1_v_add",
    "c2_v_rest_up",
    "c3_a_add",
    "c4_v_pull",
    "c5_v_fill",
    "c6_v_rest_down",
    "c7_a_pull",
)
_WEIGHT_MAX: Final = 1e6
_WINDOW_MAX: Final = 4096
"""Longest window: a row costs a move of half of it per cell and difference."""
_WINDOWS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class GoldConfig:
    """Settings of gold; all of them shape its output. Numbers are held as float and int, whatever they came as.

    Attributes:
        c1_v_add: Weight in pressure of the velocity of adds, 0 to 1e6, as all seven.
        c2_v_rest_up: Weight in pressure of a rising depth.
        c3_a_add: Weight in pressure of a rising acceleration of adds.
        c4_v_pull: Weight in vacuum of the velocity of pulls.
        c5_v_fill: Weight in vacuum of the velocity of fills.
        c6_v_rest_down: Weight in vacuum of a falling depth.
        c7_a_pull: Weight in vacuum of a rising acceleration of pulls.
        windows_bins: Windows of composite, updates, rising, 1 to 4096; at most 16 of them.
        window_weights: Their weights, 0 to 1e6, not all 0.
        z_window_bins: Updates behind a median and MAD, 2 to 4096.
        z_min_bins: Updates before which the flow score is 0, up to z_window_bins.
        d_weights: Weights in the flow score of the three differences, 0 to 1e6, not all 0.
        tanh_divisor: z at which tanh has its argument 1, > 0 to 1e6.
        state_threshold: Flow score from which flow_state is +-1, > 0 to 1.
        scale_floor: Scales of the difference of order k up to this / D^k count as rounding noise (D: width of a bin in
            seconds), 0 to 1. Composites carry an error near 1e-16, so below 1e-14 noise would be scored as signal.
        mad_factor: MAD times this estimates a standard deviation, > 0 to 1e6.
        state_table: "symmetric", or "original" for the table of the original system.
    """

    c1_v_add: float = 1.0
    c2_v_rest_up: float = 0.5
    c3_a_add: float = 0.3
    c4_v_pull: float = 1.0
    c5_v_fill: float = 1.5
    c6_v_rest_down: float = 0.5
    c7_a_pull: float = 0.3
    windows_bins: tuple[int, ...] = (5, 10, 20, 40)
    window_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    z_window_bins: int = 300
    z_min_bins: int = 75
    d_weights: tuple[float, float, float] = (0.55, 0.30, 0.15)
    tanh_divisor: float = 3.0
    state_threshold: float = 0.15
    scale_floor: float = 1e-7
    mad_factor: float = 1.4826
    state_table: StateTable = "symmetric"

    def __post_init__(self) -> None:
        """Bring numbers to float and int, and check every setting.

        Raises:
            ConfigError: a setting is outside its range.
        """
        for field in fields(self):
            if field.name != "state_table":
                self._normalise(field.name, field.default)

        def need(name: str, holds: bool, rule: str) -> None:
            if not holds:
                raise ConfigError(name, getattr(self, name), rule)

        for name in _COEFFICIENTS:
            need(name, 0.0 <= getattr(self, name) <= _WEIGHT_MAX, "from 0 to 1e6")
        windows = self.windows_bins
        rising = all(a < b for a, b in zip((0, *windows), windows, strict=False))
        need("windows_bins", 1 <= len(windows) <= _WINDOWS_MAX and rising, "1 to 16 rising lengths from 1 on")
        need("windows_bins", windows[-1] <= _WINDOW_MAX, f"at most {_WINDOW_MAX} bins long")
        for name, length in (("window_weights", len(windows)), ("d_weights", ORDERS)):
            weights = getattr(self, name)
            fits = len(weights) == length and all(0.0 <= w <= _WEIGHT_MAX for w in weights)
            need(name, fits and sum(weights) > 0.0, f"{length} weights from 0 to 1e6, not all 0")
        need("z_window_bins", 2 <= self.z_window_bins <= _WINDOW_MAX, f"from 2 to {_WINDOW_MAX}")
        need("z_min_bins", 1 <= self.z_min_bins <= self.z_window_bins, "from 1 to z_window_bins")
        for name in ("tanh_divisor", "mad_factor"):
            need(name, 1e-6 <= getattr(self, name) <= 1e6, "from 1e-6 to 1e6")
        need("state_threshold", 0.0 < self.state_threshold <= 1.0, "above 0, up to 1")
        need("scale_floor", 0.0 <= self.scale_floor <= 1.0, "from 0 to 1")
        need("state_table", self.state_table in _STATE_TABLES, "'symmetric' or 'original'")

    def _normalise(self, name: str, model: Any) -> None:
        """Bring a setting to the type of its default."""
        value = getattr(self, name)
        try:
            if isinstance(model, tuple):
                new: Any = tuple(_number(v, type(model[0])) for v in value)
            else:
                new = _number(value, type(model))
        except (TypeError, ValueError, OverflowError):
            kind = "whole" if int in (type(model), type(model[0]) if isinstance(model, tuple) else None) else "finite"
            raise ConfigError(name, value, f"made of {kind} numbers") from None
        object.__setattr__(self, name, new)

    def hash(self) -> str:
        """What tells datasets of different settings apart: sha256, 64 hex digits.

        It is taken over the line `barograph-gold/1` and one line `name=value` per setting, sorted by name, each with a
        LF, in ASCII. A number is the 16 lower-case hex digits of its IEEE 754 double, sign first; numbers of a tuple
        are joined by commas; a word stands as it is. So it can be computed in any language, and settings that are equal
        have equal hashes, however they were written.
        """
        lines = [f"{name}={_encoded(value)}\n" for name, value in sorted(asdict(self).items())]
        return sha256(("barograph-gold/1\n" + "".join(lines)).encode("ascii")).hexdigest()


def _number(value: Any, kind: type) -> float:
    """A finite float without -0.0, or a whole number."""
    number = float(value) + 0.0
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise ValueError
    return int(number) if kind is int else number


def _encoded(value: float | str | tuple[float, ...]) -> str:
    """A setting as `GoldConfig.hash` takes it."""
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, tuple) else (value,)
    return ",".join(struct.pack(">d", number).hex() for number in numbers)


class Gold:
    """Pressure, vacuum, composite, differences, flow score and state5 of one instrument.

    Attributes:
        config: Settings, which do not change.
        cell_ns: Width of a bin, ns.
        unit_px: Price width of one tick of the grid, 1e-9.
        radius: Ticks on each side of the mid.
    """

    def __init__(self, config: GoldConfig, cell_ns: int, unit_px: int, radius: int) -> None:
        """Gold that has seen nothing.

        Args:
            config: Settings.
            cell_ns: Width of a bin, ns, as the engine's.
            unit_px: Price width of one tick of the grid, 1e-9: the engine's tick_px * bucket.
            radius: Ticks on each side of the mid, as the engine's.

        Raises:
            ConfigError: the last three are outside the engine's ranges.
        """
        for name, value, low, high in (
            ("cell_ns", cell_ns, 1_000, 86_400 * NS_PER_SECOND),
            ("unit_px", unit_px, 1, (1 << 62) - 1),
            ("radius", radius, 0, (1 << 18) - 1),
        ):
            if not low <= value <= high:
                raise ConfigError(name, value, f"from {low} to {high}")
        self.config = config
        self.cell_ns = cell_ns
        self.unit_px = unit_px
        self.radius = radius
        self._width = 2 * radius + 1
        read = {*INPUTS, *(KEY_DTYPE.names or ())}
        self._inputs = [(c.name, c.numpy_dtype, c.width) for c in bins.engine_columns(radius) if c.name in read]
        self._memory = _memory(config, cell_ns, unit_px, self._width)

    def apply(self, table: Table) -> dict[str, np.ndarray]:
        """Take rows of bins in order.

        Args:
            table: Columns of `schemas.bins.engine_columns(radius)`, as `Engine.apply` gives them; more are ignored.

        Returns:
            Columns of `schemas.gold.columns(radius)`, one row for each; vectors are 0 where `gold_valid` is 0. The
            arrays are the caller's.

        Raises:
            BadBinsError: a column is missing or of another type or shape; bin_seq does not rise; or the rows are of
                another width of bins or of ticks. Nothing has changed.
        """
        rows = len(table["bin_seq"]) if "bin_seq" in table else 0
        self._check_columns(table, rows)
        keys = np.empty(rows, KEY_DTYPE)
        for name in KEY_DTYPE.names or ():
            keys[name] = table[name]
        index, why = gold_rows.first_bad(self._memory, keys)
        if why != gold_rows.FITS:
            raise BadBinsError(index, self._explain(keys[index], why))
        inputs = np.empty((len(INPUTS), rows, self._width))
        for i, name in enumerate(INPUTS):
            inputs[i] = table[name]
        valid = np.zeros(rows, np.int8)
        floats = np.zeros((len(gold.FLOAT_VECTORS), rows, self._width))
        codes = np.zeros((len(gold.CODE_VECTORS), rows, self._width), np.int8)
        gold_rows.run(self._memory, keys, inputs, valid, floats, codes)
        return {
            "bin_seq": keys["bin_seq"].copy(),
            "gold_valid": valid,
            **dict(zip(gold.FLOAT_VECTORS, floats, strict=True)),
            **dict(zip(gold.CODE_VECTORS, codes, strict=True)),
        }

    def _check_columns(self, table: Table, rows: int) -> None:
        for name, dtype, width in self._inputs:
            if name not in table:
                raise BadBinsError(-1, f"column {name} is missing; gold takes the bins of an engine")
            array = table[name]
            shape = (rows, width) if width else (rows,)
            if array.dtype != dtype or array.shape != shape:
                raise BadBinsError(
                    -1,
                    f"column {name} is {array.dtype} of shape {array.shape}; bins of radius {self.radius} have "
                    f"{dtype} of shape {shape}",
                )

    def _explain(self, key: np.record, why: int) -> str:
        """Why a row cannot be taken, in a sentence."""
        seq = int(key["bin_seq"])
        return {
            gold_rows.NOT_RISING: f"bin_seq {seq} does not follow the row before; rows are taken once, in order",
            gold_rows.OTHER_CELL: f"bin {seq} starts at {int(key['ts_start_ns'])} ns, not at a multiple by bin_seq "
            f"of {self.cell_ns} ns; give the bins' own cell_ns",
            gold_rows.OTHER_UNIT: f"spot_tick {int(key['spot_tick'])} is not the nearest tick of mid_px "
            f"{int(key['mid_px'])} at {self.unit_px} a tick; give the bins' own tick_px * bucket",
            gold_rows.BAD_SIGN: f"signs {int(key['bid_sign'])} and {int(key['ask_sign'])} of the best quotes' moves; "
            "they are -1, 0 or 1",
        }[why]

    def snapshot(self) -> bytes:
        """Everything that later rows depend on, settings included; equal states give equal bytes.

        Bytes: magic and version | settings (JSON) | bin of the last row | bins of the last updates | their comps |
        SHA-256 of all before. Bit-exact, little endian.
        """
        memory = self._memory
        state, history = memory.state[0], len(memory.comps)
        kept = min(int(state["count"]), history)
        slots = np.arange(int(state["count"]) - kept, int(state["count"])) % history
        settings = {"config": asdict(self.config), **{name: getattr(self, name) for name in _FRAME}}
        parts = [
            json.dumps(settings, sort_keys=True).encode(),
            struct.pack("<q", state["seen_seq"]),
            memory.bin_seqs[slots].astype("<i8").tobytes(),
            memory.comps[slots].astype("<f8").tobytes(),
        ]
        return pack("gold", STATE_FORMAT, parts)

    @classmethod
    def restore(cls, data: bytes) -> "Gold":
        """The gold that `snapshot` described; it goes on bit for bit.

        Args:
            data: What `snapshot` gave.

        Returns:
            A gold of its own, with the settings in the bytes.

        Raises:
            SnapshotError: the bytes are no snapshot, damaged, or of another version.
        """
        settings_bytes, seen, seq_bytes, comp_bytes = unpack("gold", STATE_FORMAT, data)
        settings = json.loads(settings_bytes)
        restored = cls(GoldConfig(**settings["config"]), **{name: settings[name] for name in _FRAME})
        width = restored._width
        floats = np.zeros((len(gold.FLOAT_VECTORS), 1, width))
        codes = np.zeros((len(gold.CODE_VECTORS), 1, width), np.int8)
        bin_seqs = np.frombuffer(seq_bytes, "<i8")
        comps = np.frombuffer(comp_bytes, "<f8").reshape(-1, width)
        gold_rows.replay(restored._memory, bin_seqs, comps, floats, codes)
        (restored._memory.state[0]["seen_seq"],) = struct.unpack("<q", seen)
        return restored


_FRAME: Final = ("cell_ns", "unit_px", "radius")
"""What a Gold is for, beside its settings."""

STATE_FORMAT: Final = 1
"""Rises when the bytes, or what follows from them, change; another version is refused."""


def _memory(config: GoldConfig, cell_ns: int, unit_px: int, width: int) -> Memory:
    """Memory of a gold that has seen nothing."""
    cell_s = cell_ns / NS_PER_SECOND
    settings = np.zeros(1, SETTINGS_DTYPE)
    s = settings[0]
    s["cell_ns"], s["unit_px"] = cell_ns, unit_px
    for i, name in enumerate(_COEFFICIENTS, 1):
        s[f"c{i}"] = getattr(config, name)
    s["z_window"], s["z_min"] = config.z_window_bins, config.z_min_bins
    s["mad_factor"], s["tanh_divisor"], s["threshold"] = config.mad_factor, config.tanh_divisor, config.state_threshold
    s["window_weight_sum"] = _sum(config.window_weights)
    s["d_weight"], s["d_weight_sum"] = config.d_weights, _sum(config.d_weights)
    s["floor"] = [config.scale_floor / math.prod([cell_s] * order) for order in range(1, ORDERS + 1)]
    for (ask_sign, bid_sign), by_side in _STATE_TABLES[config.state_table].items():
        s["table"][ask_sign + 1, bid_sign + 1] = by_side
    state = np.zeros(1, STATE_DTYPE)
    state["seen_seq"] = -1
    history = config.z_window_bins + config.windows_bins[-1] + ORDERS - 1
    return Memory(
        settings=settings,
        windows=np.array(config.windows_bins, np.int64),
        weights=np.array(config.window_weights, np.float64),
        state=state,
        comps=np.zeros((history, width)),
        bin_seqs=np.zeros(history, np.int64),
        last=np.zeros((ORDERS, width)),
        rings=np.zeros((config.z_window_bins, ORDERS, width)),
        sorted=np.zeros((width, ORDERS, config.z_window_bins)),
        sums=np.zeros(width),
    )


def _sum(weights: tuple[float, ...]) -> float:
    """Sum in the order in which kernels add: the builtin compensates rounding from Python 3.12 on."""
    total = 0.0
    for weight in weights:
        total += weight
    return total
