"""The four kinds of message on a raw topic, built from what a connector knows. No I/O.

`definition` before an instrument's first data; `data` with its records; `clock` when a live instrument is silent;
`end` when no more will come. Every connector builds them here, so that they are the same whatever the source.
"""

import numpy as np

from runtime.codec import encode_avro
from runtime.tapes import Instrument
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.units import UNDEF_TIMESTAMP


def definition(topic: str, name: str, known: Instrument, *, t_ns: int, source: str, arrived: int = -1) -> Outgoing:
    """What must be known of an instrument before its first data.

    Args:
        topic: the raw topic.
        name: the instrument.
        known: partition, tick and so on.
        t_ns: engine time from which it holds: that of the first record.
        source: where it comes from.
        arrived: connector's clock, ns; -1 in replays.
    """
    record = {
        "instrument": name,
        "venue_symbol": known.venue_symbol,
        "tick_px": known.tick_px,
        "bucket": known.bucket,
        "lot": known.lot,
        "partition": known.partition,
        "tick_source": known.tick_source,
    }
    value = encode_avro("definition", record)
    envelope = Envelope("definition", "definition", count=1, crc32=crc32(value), t=t_ns, arrived=arrived, source=source)
    return Outgoing(topic, known.partition, name, value, envelope)


def data(
    topic: str, name: str, partition: int, records: np.ndarray, *, t_ns: int, source: str, arrived: int = -1
) -> Outgoing:
    """A block of records.

    Args:
        topic, name, partition: where to.
        records: `MBO_DTYPE` of this instrument, at least one.
        t_ns: engine time after them.
        source: where they come from.
        arrived: connector's clock when the newest was received, ns; -1 in replays.
    """
    value = records.tobytes()
    envelope = Envelope(
        "data",
        "mbo",
        count=len(records),
        crc32=crc32(value),
        t=t_ns,
        ts_first=_event_ns(records[0]),
        ts_last=_event_ns(records[-1]),
        sequence_first=int(records["sequence"][0]),
        sequence_last=int(records["sequence"][-1]),
        arrived=arrived,
        source=source,
    )
    return Outgoing(topic, partition, name, value, envelope)


def clock(topic: str, name: str, partition: int, *, t_ns: int, source: str, arrived: int) -> Outgoing:
    """Time has passed without records: bins that end at or before `t_ns` close."""
    return Outgoing(topic, partition, name, b"", Envelope("clock", "mbo", t=t_ns, arrived=arrived, source=source))


def end(topic: str, name: str, partition: int, *, t_ns: int, source: str, arrived: int = -1) -> Outgoing:
    """No more will come of an instrument; `t_ns` is its engine time."""
    return Outgoing(topic, partition, name, b"", Envelope("end", "mbo", t=t_ns, arrived=arrived, source=source))


def _event_ns(record: np.void) -> int:
    t = int(record["ts_event"])
    return -1 if t == UNDEF_TIMESTAMP else t
