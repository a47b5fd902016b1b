"""Units, scales and sentinels, shared by every record.

Times are int64 nanoseconds since the UNIX epoch, UTC, suffix `_ns`. Prices are int64 in units of 1e-9 of the currency,
suffix `_px`. Sizes are lots, suffix `_sz`; the `lot` of an instrument's definition says what one lot is. DBN marks a
missing value by a sentinel of the field's type instead of a flag; the sentinels stand here once.
"""

from typing import Final

PRICE_SCALE: Final = 1_000_000_000
"""Price units in one unit of currency: a price of 1.0 is stored as 1e9."""

NS_PER_SECOND: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

UNDEF_PRICE: Final = (1 << 63) - 1
"""Missing price (int64 maximum), as in DBN."""

UNDEF_TIMESTAMP: Final = (1 << 64) - 1
"""Missing time (uint64 maximum), as in DBN."""

UNDEF_SIZE: Final = (1 << 32) - 1
"""Missing size (uint32 maximum), as in DBN."""
