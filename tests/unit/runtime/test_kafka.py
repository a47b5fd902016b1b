"""The checked producer without a broker: who waits loses patience, and no message is given up on its own."""

import pytest

from runtime.kafka import CheckedProducer, DeliveryError
from schemas.envelope import Envelope
from schemas.message import Outgoing

NOBODY = "127.0.0.1:1"
MESSAGE = Outgoing("t", 0, "X", b"v", Envelope("data", "trades"))


def test_whoever_waits_in_vain_is_told_and_nothing_more_is_sent() -> None:
    producer = CheckedProducer(NOBODY, timeout_s=0.2)
    producer.send(MESSAGE)
    with pytest.raises(DeliveryError, match=r"1 message.*no answer for 0\.2 s"):
        producer.flush()
    with pytest.raises(DeliveryError):
        producer.send(MESSAGE)


def test_a_queue_that_stays_full_is_an_error() -> None:
    producer = CheckedProducer(NOBODY, {"queue.buffering.max.messages": 2}, timeout_s=0.3)
    for _ in range(2):
        producer.send(MESSAGE)
    with pytest.raises(DeliveryError, match=r"no answer for 0\.3 s"):
        producer.send(MESSAGE)
