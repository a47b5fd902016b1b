"""What a stage is: a pure reducer over the messages of one input partition.

A reducer has no clock, no I/O, no randomness and reads no environment, so its outputs are a function of its input
prefix and its configuration alone. That is what makes a crash harmless: whoever repeats the work writes the same bytes.
The shell knows nothing of what a reducer computes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.errors import BarographError, InputError
from schemas.columns import Column, Table
from schemas.message import Message
from schemas.topics import TopicSpec


class BrokenMessageError(BarographError):
    """A message that a reducer cannot apply, and will never be able to: it is skipped at once.

    Raised before the state has changed and before the first row.
    """

    def __init__(self, message: Message, reason: str) -> None:
        self.topic, self.partition, self.offset, self.reason = message.topic, message.partition, message.offset, reason
        super().__init__(
            f"message at offset {message.offset} of {message.topic}[{message.partition}] {reason}",
            remedy="find out who produced it: `barograph dlq show`; a tape is made again with --replace",
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

    def skip(self, message: Message, reason: str) -> Iterator[Rows]:
        """Go on without a message: the state notes that something is missing. Never fails, whatever the message is."""

    def stamp(self, message: Message) -> Stamp:
        """What to write on the outputs of `message`; called once, after `apply` or `skip` has ended."""

    def snapshot(self) -> Mapping[str, bytes]:
        """The state, one piece per instrument; restoring it continues bit for bit."""

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        """Take over a state that `snapshot` gave; before the first message only."""


@dataclass(frozen=True, slots=True)
class Output:
    """One stream that a stage writes: its topic and its row."""

    topic: TopicSpec
    columns: tuple[Column, ...]


Migration = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]
"""Makes the pieces of a state of one format those of the next."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as the shell runs it.

    Attributes:
        name: the stage's name, a noun for its product.
        source: the one topic it reads.
        outputs: the topics it writes, by stream name.
        config: semantic configuration, part of `run`.
        reducer: makes the state of a partition.
        state_format: number of the form in which states are stored.
        migrations: older format → what makes pieces of the next one of them, so that a new release can take a line over
            (`streams.cutover`).
    """

    name: str
    source: TopicSpec
    outputs: Mapping[str, Output]
    config: Mapping[str, Any]
    reducer: Callable[[], Reducer]
    state_format: int = 1
    migrations: Mapping[int, Migration] = field(default_factory=dict)

    def migrate(self, pieces: Mapping[str, bytes], state_format: int) -> Mapping[str, bytes]:
        """Pieces of an older format as this release's.

        Raises:
            InputError: there is no way from that format.
        """
        while state_format != self.state_format:
            if state_format not in self.migrations:
                raise InputError(
                    f"state of {self.name} has format {state_format}, this release reads {self.state_format}",
                    remedy="start a new line with --line and move the alias to it",
                )
            pieces = self.migrations[state_format](pieces)
            state_format += 1
        return pieces
