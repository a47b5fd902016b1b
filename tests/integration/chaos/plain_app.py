"""A Faust app of nothing but a consumer, ours or the library's: what it reads first, and how often it waits in vain.

    python -m tests.integration.chaos.plain_app SERVERS TOPIC GROUP ours|theirs [back to 0 | stuck]

Prints JSON when the last message of every partition was seen: first offset of each partition after the last seek,
messages seen, sleeps of a second with full buffers, waits of a second for a drained partition beside full ones. With
`stuck`, the first message of partition 0 is never done with, and it ends 5 s after the last message it sees elsewhere.
"""

import asyncio
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from runtime.kafka import consumer, watermarks
from streams import faust_consumer
from streams.faust_app import make_app

servers, topic, group, whose = sys.argv[1:5]
go_back, stuck = "back to 0" in sys.argv, "stuck" in sys.argv
ends = {}
with tempfile.TemporaryDirectory() as folder:
    client = consumer(servers)
    for place in range(len(client.list_topics(topic).topics[topic].partitions)):
        ends[place] = watermarks(client, topic, place)[1]
    client.close()
    app = make_app(group, servers, Path(folder))
    if whose == "theirs":
        app.conf.broker_max_poll_records = None
    base = faust_consumer.Consumer if whose == "ours" else driver.Consumer
    waits = {"full": 0, "drained": 0}
    seen: dict[int, list[int]] = {place: [] for place in ends}

    class Counting(base):  # type: ignore[misc, valid-type]
        """Counts what the mend is about."""

        async def sleep(self, n: Any, **kwargs: Any) -> None:
            waits["full"] += n == 1 and bool(self._buffered_partitions) and not self._get_active_partitions()
            await super().sleep(n, **kwargs)

        async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
            waits["drained"] += timeout >= 1 and bool(self._buffered_partitions)
            return await super()._getmany(active_partitions, timeout)

    driver.Transport.Consumer = Counting

    async def on_assigned(_app: Any, **_: Any) -> None:
        """What a stage does that lost its states: everything again, from 0."""
        places = [tp for tp in app.consumer.assignment() if tp.topic == topic]
        if go_back and places:
            await asyncio.sleep(0.5)  # states are loaded; the library fetches on meanwhile
            starts = {TP(tp.topic, tp.partition): 0 for tp in places}
            faust_consumer.Consumer.start_at = starts
            await app.consumer._commit(starts)

    app.on_rebalance_complete.connect(on_assigned, weak=False)  # type: ignore[arg-type]

    def tell() -> None:
        """Say what was seen, and end."""
        first = {place: offsets[0] for place, offsets in seen.items() if offsets}
        print(json.dumps({"first": first, "seen": {p: len(o) for p, o in seen.items()}, **waits}), flush=True)
        os._exit(0)

    if stuck:

        @app.timer(5.0)
        async def look() -> None:
            """Whether the partitions that are not stuck still move."""
            now = sum(map(len, seen.values()))
            if now and now == seen_before[-1]:
                tell()
            seen_before.append(now)

        seen_before = [0]

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"), isolated_partitions=True)
    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            seen[event.message.partition].append(event.message.offset)
            await asyncio.sleep(0.001)
            if stuck and event.message.partition == 0:
                await asyncio.Event().wait()
            if all(offsets and offsets[-1] == ends[place] - 1 for place, offsets in seen.items()):
                tell()

    faust.Worker(app, loglevel=logging.CRITICAL, redirect_stdouts=False).execute_from_commandline()
