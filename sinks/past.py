"""What a sink needs and Kafka's log no longer has: from the lake, in the form in which the log gave it.

A message of the lake is the one that stood in the topic, byte for byte; so batches, tokens and rows are those that they
would have been. What was deleted on demand comes as a place without content: it has no rows, and nothing is missing.
"""

from collections.abc import Iterator
from dataclasses import replace

from runtime.object_store import ObjectStore
from runtime.sequence import Place, Placed
from runtime.tape_reader import TapeReader, first_seq
from runtime.tapes import Manifest
from schemas.envelope import crc32
from schemas.message import Message
from sinks.base import Lane


def left_the_log(
    lake: ObjectStore, manifest: Manifest, lane: Lane, start: Place, bootstrap_servers: str, low: int
) -> Iterator[Message]:
    """Messages of a lane from a place up to the start of its log.

    Args:
        lake: the lake.
        manifest: the tape.
        lane: which lane.
        start: the first place that is wanted.
        bootstrap_servers: Kafka, which knows where the log starts.
        low: first offset of the log. A derived message may have stood anywhere before it, and gets the last offset
            before the log, so that whoever has it goes on with the log.

    Raises:
        HoleError: the lake ends before the log begins.
        BarographError: an object is damaged, lake or broker are away.
    """
    spec = lane.table.topic
    base = first_seq(spec, manifest, lane.partition)
    reader = TapeReader(manifest, lane.line, spec, lane.partition, bootstrap_servers, lake, start, deleted=True)
    for placed in reader.before_log():
        yield replace(_content(placed), offset=placed.seq - base if spec.by_offset else low - 1)


def _content(placed: Placed) -> Message:
    message = placed.message
    if not placed.deleted:
        return message
    return replace(message, value=b"", envelope=replace(message.envelope, count=0, crc32=crc32(b"")))
