"""The highest place on a partition: found anywhere in the log, and not by reading all of it again."""

from types import SimpleNamespace
from typing import Any

import pytest

from runtime import kafka
from runtime.kafka import CheckedProducer, newest_envelope
from schemas.envelope import Envelope


def test_only_what_came_since_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(0, 0), (1, 0), (1, 1), (0, 0), (1, 0)]  # whoever redoes work goes back
    low, asked = 0, []

    def read(_servers: str, _topic: str, _partition: int, start: int, stop: int) -> list[Any]:
        asked.append((start, stop))
        found = [Envelope("data", "bins", seq=seq, part=part) for seq, part in places[start:stop]]
        return [SimpleNamespace(envelope=envelope) for envelope in found]

    monkeypatch.setattr(kafka, "watermarks", lambda *_: (low, len(places)))
    monkeypatch.setattr(kafka, "read_range", read)
    producer = CheckedProducer("127.0.0.1:1")
    assert producer.newest("t", 0) == (1, 1)
    assert producer.newest("t", 0) == (1, 1)
    places += [(1, 1), (2, 0), (1, 0)]
    assert producer.newest("t", 0) == (2, 0)
    assert asked == [(0, 5), (5, 5), (5, 8)]
    low = 4  # the start of the log moved
    assert producer.newest("other", 0) == (2, 0)
    assert asked[-1] == (4, 8)
    whole = newest_envelope("", "t", 0)
    assert whole is not None
    assert (whole.seq, asked[-1]) == (2, (4, 8))


def test_an_empty_partition_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "watermarks", lambda *_: (0, 0))
    monkeypatch.setattr(kafka, "read_range", lambda *_: [])
    assert CheckedProducer("127.0.0.1:1").newest("t", 0) is None
    assert newest_envelope("", "t", 0) is None
