"""A stage in a Faust app: Faust delivers, the shell works.

Faust would acknowledge on its own, also when the agent fails, and it commits past holes; therefore streams are read
with `noack`, all messages since the last checkpoint are held, and the shell acknowledges them in order.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import faust
import mode
from faust.types import TP

from streams.faust_consumer import Consumer
from streams.shell import Delivery, StageShell, T, Threads

TICK_S: Final = 0.25
"""How often quiet partitions are looked at; half the shortest useful checkpoint interval."""


TOGETHER_MAX: Final = 16
"""Messages that a shell is given at once: a quarter of the buffer, so that Faust fills the rest meanwhile. A hand-over
to the thread and back costs 0.1 to 0.5 ms; with one message each, that would be most of the cost of small ones."""


class FaustInput:
    """What a shell asks of its deliverer, answered by a Faust app.

    Args:
        app: the app.
        topic: the stage's input.
    """

    def __init__(self, app: faust.App, topic: str) -> None:
        self._app, self._topic = app, topic

    async def log_starts(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """First offsets of the log, as the broker says."""
        tps = [TP(self._topic, number) for number in partitions]
        found = await self._app.consumer.earliest_offsets(*tps) if tps else {}
        return {tp.partition: offset for tp, offset in found.items()}

    def acknowledge(self, delivery: Delivery) -> None:
        """Faust commits it within a second."""
        self._app.consumer.ack(cast("Any", delivery))


def threads(name: str) -> Threads:
    """A thread of its own for a stage's work, as `streams.shell.Threads`."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    return run


def attach(app: faust.App, shell: StageShell) -> None:
    """Make an app deliver the shell's topic to it."""

    async def on_assigned(_app: faust.App, **_: Any) -> None:
        """After every assignment, before Faust seeks."""
        mine = [tp for tp in app.consumer.assignment() if tp.topic == shell.topic]
        starts = await shell.assigned([tp.partition for tp in mine])
        if starts:  # none: nothing is owned, or a newer assignment has told its own by now
            await _start_at(app, shell.topic, starts)

    async def on_leaving(_app: faust.App, *_: Any, **__: Any) -> None:
        await shell.leaving()

    async def run(stream: Any) -> None:
        async for event in stream.noack().events():
            await shell.take(event.message, *_waiting(app, stream))

    app.agent(
        app.topic(shell.topic, value_serializer="raw", key_serializer="raw"),
        name=shell.stage.name,
        isolated_partitions=True,  # one actor per partition, in order
        concurrency=1,
        supervisor_strategy=mode.CrashingSupervisor,  # the default leaves a failed partition silently stuck
    )(run)
    app.timer(TICK_S)(shell.tick)
    signals: Any = app  # Faust types its signals too narrowly for handlers that ignore what they are sent
    signals.on_rebalance_complete.connect(on_assigned, weak=False)
    signals.on_partitions_revoked.connect(on_leaving, weak=False)
    signals.on_before_shutdown.connect(on_leaving, weak=False)


def _waiting(app: faust.App, stream: Any) -> list[Delivery]:
    """The messages buffered behind the one that a stream just gave, as the stream itself would take them."""
    queue = stream.channel.queue
    found: list[Delivery] = []
    while len(found) < TOGETHER_MAX - 1 and not queue.empty():
        message = queue.get_nowait().message
        app.consumer.track_message(message)
        found.append(message)
    return found


async def _start_at(app: faust.App, topic: str, starts: Mapping[int, int]) -> None:
    """Have the consumer seek to exactly these offsets, and make the committed offsets equal."""
    wanted = {TP(topic, number): offset for number, offset in starts.items()}
    others: Iterable[tuple[TP, int]] = ((tp, o) for tp, o in Consumer.start_at.items() if tp.topic != topic)
    Consumer.start_at = {**dict(others), **wanted}
    await cast("Any", app.consumer)._commit(wanted)
