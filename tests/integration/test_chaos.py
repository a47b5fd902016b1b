"""The faults in short form: on a part of the tape, a worker is killed and paused and the broker is killed.

`make chaos` is the long form, with the same course and the same checks.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.embedded.kafka import EmbeddedKafka
from control.topic_admin import TopicAdmin
from runtime.kafka import CheckedProducer, DeliveryError, read_range
from schemas import topics
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from tests.integration.chaos import faults
from tests.integration.chaos.course import case
from tests.integration.chaos.faults import Fault, Load, Outcome, compare, make_load
from tests.integration.chaos.tape import Content, blocks_of, expected, make_content, sprinkled

pytestmark = [pytest.mark.real, pytest.mark.data, pytest.mark.timeout(300)]

IN_TURN = (faults.kill_worker, faults.kill_worker, faults.kill_broker, faults.kill_worker, faults.pause_worker)
"""The pause comes last: the worker that wakes up late meets what the others have made of its partitions."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker of our own, to be killed."""
    with EmbeddedKafka(tmp_path_factory.mktemp("broker")) as made:
        yield made


@pytest.fixture(scope="module")
def content(esh4: Path, aapl: Path, tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Heads of the real files; that of ESH4 goes beyond its opening snapshot."""
    real = {aapl: 3_000, esh4: 9_500}
    return make_content(tmp_path_factory.mktemp("files"), real, simulated_records=400, hours=0.01)


@pytest.fixture(scope="module")
def load(content: Content) -> Load:
    return make_load(content, blocks_of(5))


def test_nothing_is_lost_doubled_or_different(broker: EmbeddedKafka, load: Load, tmp_path: Path) -> None:
    fault = Fault("in turn", faults.in_turn(*IN_TURN), workers=2)
    made = Outcome(fault.name, len(IN_TURN), fault.workers)
    faults.run(made, fault, load, broker, tmp_path, tape="short", rate=16, checkpoint_min_s=0.3)
    assert made.exact, made.figures()
    assert made.strikes == len(IN_TURN)
    assert made.left == [], "a worker left by itself"


CASES = [(1, True, True), *((blocks, c, r) for blocks in (100, 1_024) for c in (False, True) for r in (False, True))]
"""Records in a block, clocks, restarts; blocks of one record are slow, so theirs is the hardest case alone."""


@pytest.mark.parametrize(("blocks", "clocks", "restarts"), CASES)
def test_rows_do_not_depend_on_blocks_restarts_or_clocks(
    content: Content, load: Load, blocks: int, clocks: bool, restarts: bool
) -> None:
    """Without a broker; a restart is a state that is stored and taken over by a new reducer."""
    rng = random.Random(f"{blocks} {clocks} {restarts}")
    raw = content.messages("determinism", blocks_of(blocks))
    if clocks:
        raw = [list(sprinkled(messages, rng)) for messages in raw]
        assert sum(message.envelope.kind == "clock" for messages in raw for message in messages) > 1
    found = expected(raw, "determinism", rng if restarts else None)
    assert not compare(found, load.wanted, bytes_too=False)


def test_two_workers_restarts_and_clocks_on_the_broker(broker: EmbeddedKafka, content: Content, tmp_path: Path) -> None:
    load = make_load(content, blocks_of(100))
    assert not case(load, broker, tmp_path, "matrix", 2, restarts=True, clocks=True)


def test_after_an_outage_a_partition_holds_a_prefix(broker: EmbeddedKafka) -> None:
    """A producer that gave up during an outage has left nothing out before what it delivered after it."""
    name = topics.MBO.name("prefix")
    TopicAdmin(broker.bootstrap_servers).apply("prefix", "main", 1)
    producer, stop = CheckedProducer(broker.bootstrap_servers, timeout_s=3), threading.Event()
    failed: list[DeliveryError] = []

    def send() -> None:
        try:
            for number in range(1 << 20):
                value = b"%d" % number
                producer.send(Outgoing(name, 0, "X", value, Envelope("data", "mbo", count=1, crc32=crc32(value))))
                if stop.wait(0.002):
                    return
        except DeliveryError as error:
            failed.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(1)
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        sender.join(30)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
        stop.set()
        sender.join()
    time.sleep(3)  # what the client still holds may arrive
    assert "no answer for 3 s" in str(failed)
    stored = [int(message.value) for message in read_range(broker.bootstrap_servers, name, 0)]
    assert stored == list(range(len(stored)))
