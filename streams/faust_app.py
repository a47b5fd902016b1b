"""The Faust app: the only place that makes one, and every setting with its reason."""

from pathlib import Path
from typing import Final

import faust
from faust.tables import TableManager

from schemas.topics import MESSAGE_BYTES_MAX
from streams import faust_consumer

BUFFERED_MESSAGES: Final = 64
"""Messages per partition that wait in memory. At 4,096 records each that is 14 MiB; Faust's own 4,096 would be 900 MiB.
Fewer than 16 starve the worker between two fetches."""

FETCHED_MESSAGES: Final = BUFFERED_MESSAGES - 4 * BUFFERED_MESSAGES // 5
"""Messages that one fetch brings: what always fits. Faust stops fetching for a partition whose buffer is four fifths
full; what a fetch brings beyond a full buffer is waited for, and with it every other partition and stage of the
process: thousands of small messages in one fetch made a slow stage stop its neighbours for minutes."""

SESSION_S: Final = 10.0
"""How long the group waits for a silent worker. A paused process loses its partitions after it; a static member that
was stopped leaves them silent for as long. Shorter than a garbage collection or a slow disk would evict the healthy."""


class NoTables(TableManager):
    """Faust's keeper of tables waits a second, at every start, for tables to be declared; here there are none."""

    async def on_start(self) -> None:
        """Go on at once."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


def make_app(group: str, bootstrap_servers: str, data_dir: Path, *, member: str | None = None) -> faust.App:
    """A Faust app for one stage on one tape and line.

    Args:
        group: consumer group, also the app's id.
        bootstrap_servers: `host:port,…`.
        data_dir: folder for what Faust keeps (nothing, but it insists on having one).
        member: static group member name, one per worker slot; a restarted worker gets its partitions at once.
    """
    faust_consumer.install()
    data_dir.mkdir(parents=True, exist_ok=True)  # Faust makes the folder itself, but not its parents
    return faust.App(
        group,
        broker=[f"kafka://{server}" for server in bootstrap_servers.split(",")],
        store="memory://",
        TableManager=NoTables,
        datadir=str(data_dir / "faust"),
        web_enabled=False,
        processing_guarantee="at_least_once",  # with our checkpoints; Faust's exactly-once is broken
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,  # topics come from the catalogue
        stream_wait_empty=False,  # true makes every rebalance wait for messages we hold on purpose
        stream_buffer_maxsize=BUFFERED_MESSAGES,
        stream_recovery_delay=0.0,
        broker_max_poll_records=FETCHED_MESSAGES,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=MESSAGE_BYTES_MAX,
        producer_max_request_size=MESSAGE_BYTES_MAX,
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=SESSION_S / 4,
        broker_request_timeout=90.0,
        broker_rebalance_timeout=60.0,
        broker_commit_every=1000,
        broker_commit_interval=1.0,
        consumer_group_instance_id=member,
        worker_redirect_stdouts=False,
    )
