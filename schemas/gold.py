"""Gold: what the grid of a bin says about pressure and its change, one row for each row of bins.

`design` words as in `bins`: element i of a vector is the cell k = i - R, k ticks from `spot_tick`. A row belongs to the
row of bins with the same `bin_seq`; the series behind the derivatives and the flow score are those of a k, whatever its
price. Rows are computed by `engine.gold`; two settings of it give two datasets, told apart by the hash of the settings.
"""

from typing import Final

from schemas.bins import RADIUS_DEFAULT
from schemas.columns import Column

SCALARS: Final = (
    Column("bin_seq", "i8", "bins", "number of the bin, as in bins"),
    Column("gold_valid", "i1", "0/1", "0: the book could not be trusted or had no mid; all vectors are then 0"),
)

FLOAT_VECTORS: Final = (
    "pressure",
    "vacuum",
    "composite",
    "composite_d1",
    "composite_d2",
    "composite_d3",
    "flow_score",
)
"""The vectors of float64, in schema order; the codes follow them."""

CODE_VECTORS: Final = ("flow_state", "state5")
"""The vectors of int8, in schema order."""

_UNITS: Final = {
    "pressure": ("lots/s", "weighted lots that come and stay at the cell"),
    "vacuum": ("lots/s", "weighted lots that leave it"),
    "composite": ("ratio", "mean of (pressure - vacuum) / (pressure + vacuum) over recent bins, -1 to 1"),
    "composite_d1": ("1/s", "backward difference of composite; 0 until there are two values"),
    "composite_d2": ("1/s^2", "backward difference of composite_d1; 0 until there are three values"),
    "composite_d3": ("1/s^3", "backward difference of composite_d2; 0 until there are four values"),
    "flow_score": ("ratio", "blend of the robust z of the three differences, -1 to 1; 0 while warming up"),
    "flow_state": ("sign", "+1 or -1 where flow_score reaches the threshold, else 0"),
    "state5": ("code", "-2 bear vacuum, -1 bear pressure, 0 neutral, 1 bull pressure, 2 bull vacuum"),
}


def columns(radius: int = RADIUS_DEFAULT) -> tuple[Column, ...]:
    """The row of gold: `bin_seq`, `gold_valid`, then vectors of `2 * radius + 1` elements."""
    width = 2 * radius + 1
    floats = tuple(Column(name, "f8", *_UNITS[name], width) for name in FLOAT_VECTORS)
    codes = tuple(Column(name, "i1", *_UNITS[name], width) for name in CODE_VECTORS)
    return (*SCALARS, *floats, *codes)
