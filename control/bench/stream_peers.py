"""What stages are compared with: the least that Faust can do, and the least that librdkafka can do.

`noop` is a Faust app with our settings whose agent only acknowledges. `loop` consumes with confluent-kafka and does
nothing; `echo` sends every message on to another topic as it comes. The first and the last run in processes of their
own, as a stage does:

    python -m control.bench.stream_peers noop SERVERS TOPIC FOLDER BEGIN WANTED REPORT
    python -m control.bench.stream_peers echo SERVERS TOPIC TARGET
"""

import json
import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.lifeline import watch_lifeline


@dataclass(slots=True)
class Marks:
    """Times of a consumer, s on the monotonic clock, which all processes of a machine share.

    Attributes:
        begin: messages that do not count.
        wanted: messages in all.
        seen: messages so far.
        first_s: when the first message of all came.
        begin_s, last_s: when the first that counts, and the latest one, came.
        silence_s: longest time between two that count.
    """

    begin: int
    wanted: int
    seen: int = 0
    first_s: float = 0.0
    begin_s: float = 0.0
    last_s: float = 0.0
    silence_s: float = 0.0

    def add(self) -> bool:
        """Take a message; whether it was the last."""
        now_s = time.monotonic()
        self.first_s = self.first_s or now_s
        if self.seen == self.begin:
            self.begin_s = now_s
        elif self.seen > self.begin:
            self.silence_s = max(self.silence_s, now_s - self.last_s)
        self.last_s = now_s
        self.seen += 1
        return self.seen == self.wanted

    @property
    def seconds(self) -> float:
        """From the first message that counts to the last."""
        return self.last_s - self.begin_s


def loop(servers: str, topic: str, begin: int, wanted: int) -> Marks:
    """Consume a topic from its start, doing nothing."""
    from confluent_kafka import TopicPartition

    from runtime.kafka import BATCH_MESSAGES, consumer

    marks = Marks(begin, wanted)
    with closing(consumer(servers)) as client:
        client.assign([TopicPartition(topic, 0, 0)])
        while marks.seen < wanted:
            for _ in client.consume(min(BATCH_MESSAGES, wanted - marks.seen), timeout=1.0):
                marks.add()
    return marks


def noop(servers: str, topic: str, folder: Path, marks: Marks, report: Path) -> None:
    """A Faust worker that only acknowledges; writes its marks and leaves at the last message."""
    import faust
    import mode

    from streams.faust_app import make_app

    group = f"noop-{report.stem}"
    app = make_app(group, servers, folder / group, member=f"{group}-0")

    async def run(stream: Any) -> None:
        async for _ in stream.events():
            if marks.add():
                report.write_text(json.dumps(asdict(marks)))
                os._exit(0)

    topics = app.topic(topic, value_serializer="raw", key_serializer="raw")
    app.agent(topics, isolated_partitions=True, concurrency=1, supervisor_strategy=mode.CrashingSupervisor)(run)
    faust.Worker(app, loglevel="warning", redirect_stdouts=False, override_logging=False).execute_from_commandline()


def echo(servers: str, topic: str, target: str) -> None:
    """Send every message on, with the client settings of a stage, until the parent ends."""
    from confluent_kafka import TopicPartition

    from runtime.kafka import CheckedProducer, consumer, to_message
    from schemas.message import Outgoing

    producer = CheckedProducer(servers)
    with closing(consumer(servers)) as client:
        client.assign([TopicPartition(topic, 0, 0)])
        while True:
            if (raw := client.poll(1.0)) is not None:
                message = to_message(raw)
                producer.send(Outgoing(target, 0, message.instrument, message.value, message.envelope))


def main(what: str, servers: str, topic: str, *rest: str) -> None:
    """Be one of them."""
    watch_lifeline()
    if what == "noop":
        folder, begin, wanted, report = rest
        noop(servers, topic, Path(folder), Marks(int(begin), int(wanted)), Path(report))
    else:
        echo(servers, topic, *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
