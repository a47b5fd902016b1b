"""Counters of what was odd in the input. A counter that rose in a bin sets its bit in the bin's `flags`.

| bit | name | a record ... |
|---|---|---|
| 1 | bad_timestamp | whose time is missing, or further ahead of ts_recv than allowed; ts_recv was used |
| 2 | late_record | whose time lay before the engine's and was lifted to it |
| 4 | off_tick | whose price is no multiple of the tick |
| 8 | duplicate_add | that adds an id which rests already; applied as a modify |
| 16 | unknown_cancel | that cancels an id which does not rest; ignored |
| 32 | unknown_modify | that modifies an id which does not rest; applied as an add |
| 64 | undefined_price | that adds or modifies without a price; skipped |
| 128 | undefined_side | that adds or modifies without a side; skipped |
| 256 | non_finite | step of a chain whose result was not finite; the chain kept its values |
| 512 | undefined_size | that adds without a size; skipped |
"""

from typing import Final

from engine._jit import inlined
from engine.machine import counts, state_of
from engine.state import Machine

NAMES: Final = (
    "bad_timestamp",
    "late_record",
    "off_tick",
    "duplicate_add",
    "unknown_cancel",
    "unknown_modify",
    "undefined_price",
    "undefined_side",
    "non_finite",
    "undefined_size",
)
"""Counter i has bit `1 << i`."""

BAD_TIMESTAMP: Final = NAMES.index("bad_timestamp")
LATE_RECORD: Final = NAMES.index("late_record")
OFF_TICK: Final = NAMES.index("off_tick")
DUPLICATE_ADD: Final = NAMES.index("duplicate_add")
UNKNOWN_CANCEL: Final = NAMES.index("unknown_cancel")
UNKNOWN_MODIFY: Final = NAMES.index("unknown_modify")
UNDEFINED_PRICE: Final = NAMES.index("undefined_price")
UNDEFINED_SIDE: Final = NAMES.index("undefined_side")
NON_FINITE: Final = NAMES.index("non_finite")
UNDEFINED_SIZE: Final = NAMES.index("undefined_size")


@inlined
def count(m: Machine, counter: int) -> None:
    """Raise a counter by one and set its bit in the open bin."""
    counts(m)[counter] += 1
    state_of(m).flags |= 1 << counter
