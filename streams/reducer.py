"""What a stage is: a pure reducer over the messages of one input partition.

A reducer has no clock, no I/O, no randomness and reads no environment, so its outputs are a function of its input
prefix and its configuration alone. That is what makes a crash harmless: whoever repeats the work writes the same bytes.
The shell knows nothing of what a reducer computes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.errors import BarographError
from schemas.columns import Column, Table
from schemas.message import Message
from schemas.topics import TopicSpec


class BrokenMessageError(BarographError):
    """A message that a reducer cannot apply."""

    def __init__(self, message: Message, reason: str) -> None:
        self.topic, self.partition, self.offset, self.reason = message.topic, message.partition, message.offset, reason
        super().__init__(
            f"message at offset {message.offset} of {message.topic}[{message.partition}] {reason}",
            remedy="find out who produced it; a tape is made again with --replace",
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows for one output stream.

    Attributes:
        stream: name of the output stream, as in the topic catalogue.
        table: the rows, in order.
    """

    stream: str
    table: Table


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the headers of an input's outputs say beside its place.

    Attributes:
        t: engine time of the instrument after the input, ns.
        summary: stream name → JSON about the final state; given on `end` only.
    """

    t: int
    summary: Mapping[str, str]


class Reducer(Protocol):
    """State of one input partition, and the rule by which messages change it."""

    def apply(self, message: Message) -> Iterator[Rows]:
        """Change the state by one message; yields rows as it goes, so memory does not grow with a gap in time."""

    def stamp(self, message: Message) -> Stamp:
        """What to write on the outputs of `message`; called once, after `apply` has ended."""

    def snapshot(self) -> Mapping[str, bytes]:
        """The state, one piece per instrument; restoring it continues bit for bit."""

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        """Take over a state that `snapshot` gave; before the first message only."""


@dataclass(frozen=True, slots=True)
class Output:
    """One stream that a stage writes: its topic and its row."""

    topic: TopicSpec
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as the shell runs it.

    Attributes:
        name: the stage's name, a noun for its product.
        source: the one topic it reads.
        outputs: the topics it writes, by stream name.
        config: semantic configuration, part of `run`.
        reducer: makes the state of a partition.
    """

    name: str
    source: TopicSpec
    outputs: Mapping[str, Output]
    config: Mapping[str, Any]
    reducer: Callable[[], Reducer]
