"""What the embedded broker is told: `server.properties` and the command line of its Java machine, as pure functions.

One node is broker and controller (KRaft), bound to the loopback address alone, so it needs no authentication. Every
value that differs from Kafka's default stands in `broker_properties` with its reason.
"""

from pathlib import Path
from typing import Final

from schemas.topics import MESSAGE_BYTES_MAX

HOST: Final = "127.0.0.1"
"""Loopback only: the embedded broker knows no passwords."""

NODE_ID: Final = 1

_INT64_MAX: Final = (1 << 63) - 1


def broker_properties(
    log_dir: Path, port: int, controller_port: int, retention_check_ms: int | None = None
) -> dict[str, str]:
    """The broker's settings.

    Args:
        log_dir: folder of the partitions.
        port: where clients connect.
        controller_port: where the broker meets its own controller.
        retention_check_ms: time between two looks for segments to delete, ms; None: Kafka's 5 minutes.
    """
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(log_dir),
        # A restart after a kill waits for the old registration's session: 12 s by default, 5 s with these.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # One node holds every copy; the defaults ask for three and topics of the broker's own would never be made.
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # 50 partitions each by default: a hundred folders and a second of start for a handful of groups.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",  # 3 s by default, spent at every start of a worker
        "auto.create.topics.enable": "false",  # a misspelt name is an error, not a topic with the wrong retention
        "message.max.bytes": str(MESSAGE_BYTES_MAX + (64 << 10)),  # a batch: one largest message and its overhead
        "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX + (64 << 10)),
        "log.message.timestamp.after.max.ms": str(_INT64_MAX),  # stamps are the market's time, not this machine's
        "log.message.timestamp.before.max.ms": str(_INT64_MAX),
        "log.segment.delete.delay.ms": "1000",  # 60 s by default, in which a deleted tape keeps its disk
        "log.initial.task.delay.ms": "1000",  # 30 s by default, in which nothing is deleted after a start
        "num.network.threads": "2",  # sized for a laptop's two cores; the defaults serve a server
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),  # 128 MiB by default, a quarter of the heap
    }
    if retention_check_ms is not None:
        properties["log.retention.check.interval.ms"] = str(retention_check_ms)
    return properties


def render(properties: dict[str, str]) -> str:
    """A Java properties file. Java reads it as Latin-1, and a backslash starts an escape there."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(text: str) -> str:
    """Text with backslashes doubled and everything beyond ASCII as UTF-16 escapes."""
    units = text.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def java_command(java: Path, jars: list[Path], folder: Path, logging: Path, heap_mb: int) -> list[str]:
    """The command up to the main class.

    Args:
        java: the Java machine.
        jars: the class path.
        folder: the broker's folder; its log and temporary files go below it.
        logging: log4j2 configuration.
        heap_mb: limit of the Java heap, MiB.
    """
    return [
        str(java),
        "-Xms64m",
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",  # a collector thread per core and its tables cost more than they bring at this heap
        "-XX:TieredStopAtLevel=1",  # no optimising compiler: start takes 4.6 s of CPU and not 7.8, blocks the same
        "-XX:+ExitOnOutOfMemoryError",  # a broker that lives on half dead is restarted by nobody
        "-XX:-UsePerfData",  # leaves files in /tmp after a kill
        "--enable-native-access=ALL-UNNAMED",  # compression codecs are native code; silences a warning of Java 24 on
        f"-Djava.io.tmpdir={folder / 'tmp'}",  # the codecs unpack themselves there and stay after a kill
        f"-Dlog4j2.configurationFile={logging}",
        f"-Dbarograph.log={folder / 'log' / 'server.log'}",
        "-cp",
        ":".join(map(str, jars)),
    ]
