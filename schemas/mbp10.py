"""The ten best levels as Databento's DBN spells them: market by price, depth ten (MBP-10), 368 bytes a record.

The engine writes these records itself, so the layout is declared here from its parts; a test compares it with the dtype
that `databento_dbn` ships. Source: Databento DBN reference, `Mbp10Msg`.

| field | unit and meaning |
|---|---|
| length, rtype | record size in units of 4 bytes: 92; record type: 10 |
| price, size, action, side | of the event's first trade, else of its last record |
| flags | of the event's last record |
| depth | level that changed; the engine does not follow that and writes 0 |
| bid_px_NN, ask_px_NN | 1e-9 of the currency; UNDEF_PRICE where there is no such level |
| bid_sz_NN, ask_sz_NN | lots; 0 where there is no such level |
| bid_ct_NN, ask_ct_NN | orders; 0 where there is no such level |

The other fields mean what they mean in `schemas.mbo`. Levels count from 00, the best.
"""

from typing import Final

import numpy as np

MBP10_BYTES: Final = 368
MBP10_RTYPE: Final = 10
LEVELS: Final = 10

HEADER_BYTES: Final = 48
"""Bytes before the first level."""
LEVEL_BYTES: Final = 32
"""Bytes of one level: both prices, both sizes, both counts."""

MBP10_DTYPE: Final = np.dtype(
    [
        ("length", "u1"),
        ("rtype", "u1"),
        ("publisher_id", "<u2"),
        ("instrument_id", "<u4"),
        ("ts_event", "<u8"),
        ("price", "<i8"),
        ("size", "<u4"),
        ("action", "S1"),
        ("side", "S1"),
        ("flags", "u1"),
        ("depth", "u1"),
        ("ts_recv", "<u8"),
        ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
        *(
            (f"{side}_{what}_{level:02d}", dtype)
            for level in range(LEVELS)
            for what, dtype in (("px", "<i8"), ("sz", "<u4"), ("ct", "<u4"))
            for side in ("bid", "ask")
        ),
    ]
)
