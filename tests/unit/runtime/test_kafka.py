"""The checked producer without a broker: who waits loses patience, and no message is given up on its own."""

import pytest

from runtime import kafka
from runtime.kafka import CheckedProducer, DeliveryError
from schemas.envelope import Envelope
from schemas.message import Outgoing

NOBODY = "127.0.0.1:1"
MESSAGE = Outgoing("t", 0, "X", b"v", Envelope("data", "trades"))


def test_no_message_is_given_up_while_others_wait_behind_it() -> None:
    producer = CheckedProducer(NOBODY)
    producer.send(MESSAGE)
    with pytest.raises(DeliveryError, match=r"1 message.*no answer for 0\.2 s"):
        producer.flush(0.2)
    producer.send(MESSAGE)
    with pytest.raises(DeliveryError, match="2 message"):
        producer.flush(0.2)


def test_a_queue_that_stays_full_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "DELIVERY_TIMEOUT_S", 0.3)
    producer = CheckedProducer(NOBODY, {"queue.buffering.max.messages": 2})
    for _ in range(2):
        producer.send(MESSAGE)
    with pytest.raises(DeliveryError, match=r"no answer for 0\.3 s"):
        producer.send(MESSAGE)
