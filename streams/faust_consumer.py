"""Two faults of the libraries below Faust, mended in one place.

**Stalls.** When the buffers of all assigned partitions are full, Faust's consumer sleeps a whole second although they
drain in milliseconds; and when one partition is drained while others are full, it waits up to a second on the drained
one. One busy partition is then held to about 430 blocks/s instead of 2,270. We look again after 2 ms, and wait at most
10 ms on a drained partition while others are buffered.

**A start that is not sought.** aiokafka 0.14 does not seek when the committed offset is 0 (`if offset and offset > 0`),
and Faust relies on that seek after every assignment. The position then stays wherever the background fetcher had got
to: after a lost disk, or when the fetcher was ahead at a first start, blocks are skipped without any error. The shell
puts the offsets of its checkpoints into `start_at`, and we seek to exactly those.

Source: faust-streaming 0.15.3 `faust/transport/consumer.py` (`_wait_next_records`, `getmany`), aiokafka 0.14.0
`AIOKafkaConsumer.seek_to_committed`. A test for each fails without its
mend; when a release makes it pass, the mend goes.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

FULL_BUFFERS_WAIT_S: Final = 0.002
"""Pause while every buffer is full. A block takes 0.2 to 5 ms: longer leaves the worker idle, shorter spins."""

DRAINED_WAIT_S: Final = 0.010
"""Wait for a drained partition while another one is full: the time in which a full buffer must not run dry."""


class Consumer(driver.Consumer):
    """Faust's consumer with both mends.

    Attributes:
        start_at: partition → offset that the stage continues from; set before Faust seeks.
    """

    start_at: ClassVar[dict[TP, int]] = {}

    async def _wait_next_records(self, timeout: float) -> Any:
        if self.flow_active and not self._get_active_partitions():
            await asyncio.sleep(FULL_BUFFERS_WAIT_S)
            if not self._get_active_partitions():
                return None, None
        return await super()._wait_next_records(DRAINED_WAIT_S if self._buffered_partitions else timeout)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, then to the checkpoints' own; Faust reads on from what is returned."""
        offsets = dict(await super().seek_to_committed())
        mine = self.assignment()
        wanted = {tp: offset for tp, offset in self.start_at.items() if tp in mine}
        if wanted:
            await self.seek_wait(wanted)
            offsets.update(wanted)
        return offsets


def install() -> None:
    """Make Faust's Kafka transport use this consumer; call before an app starts."""
    driver.Transport.Consumer = Consumer
