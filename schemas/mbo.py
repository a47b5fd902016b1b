"""The raw record: one order event, market by order (MBO, L3), exactly as in Databento's DBN.

The layout is the wire format, the file format and the memory format at once, so a block of records needs no decoding:
`numpy.frombuffer(value, MBO_DTYPE)`. Source: Databento DBN reference, `MboMsg`; a test compares this dtype with the one
that `databento_dbn` ships.

| field | unit and meaning |
|---|---|
| length | record size in units of 4 bytes: 14 |
| rtype | record type: 160 |
| publisher_id, instrument_id | Databento's ids |
| ts_event | matching engine's time, ns since the epoch; UNDEF 2^64-1 |
| order_id | id of the order, unique per venue and instrument while the order lives |
| price | 1e-9 of the currency; UNDEF 2^63-1 |
| size | lots; UNDEF 2^32-1 |
| flags | bits F_* below |
| channel_id | venue's channel |
| action | A add, C cancel, M modify, R clear, T trade, F fill, N none |
| side | B bid, A ask, N none; on T it is the aggressor's side, else the resting order's |
| ts_recv | capture server's time, ns since the epoch |
| ts_in_delta | ns between sending by the venue and ts_recv, signed |
| sequence | venue's sequence number on the channel; not unique, not per instrument |
"""

from typing import Final

import numpy as np

MBO_BYTES: Final = 56
MBO_RTYPE: Final = 160

MBO_DTYPE: Final = np.dtype(
    [
        ("length", "u1"),
        ("rtype", "u1"),
        ("publisher_id", "<u2"),
        ("instrument_id", "<u4"),
        ("ts_event", "<u8"),
        ("order_id", "<u8"),
        ("price", "<i8"),
        ("size", "<u4"),
        ("flags", "u1"),
        ("channel_id", "u1"),
        ("action", "S1"),
        ("side", "S1"),
        ("ts_recv", "<u8"),
        ("ts_in_delta", "<i4"),
        ("sequence", "<u4"),
    ]
)

F_LAST: Final = 128
"""Last record of an event: the book may be looked at after it."""
F_TOB: Final = 64
"""Top-of-book record, not an order."""
F_SNAPSHOT: Final = 32
"""Part of a snapshot: state, not an event; its time is ts_recv."""
F_MBP: Final = 16
"""Synthetic order that stands for a whole price level of an L2 venue."""
F_BAD_TS_RECV: Final = 8
"""ts_recv is not trustworthy."""
F_MAYBE_BAD_BOOK: Final = 4
"""An unrecoverable gap was detected upstream."""
F_PUBLISHER_SPECIFIC: Final = 2
"""Meaning depends on the publisher; together with F_MBP: the view of an L2 venue was cut or widened."""

RECORDS_PER_BLOCK_MAX: Final = 4096
"""Records in one raw message at most. A worker holds a block's outputs while it applies it; above, a quiet second of a
fast market would not fit the 8 MiB message limit with its outputs; below, per-message cost eats the throughput."""
