"""The rule by which every consumer drops repeats and refuses holes. One implementation: stages, sinks and gateway.

Transport is at-least-once: after a crash, a producer writes again what already stands in the topic. Content is
deterministic, so a repeat is byte-equal, and a consumer only has to know which (`seq`, `part`) it expects next:

    what comes          verdict
    (seq, part) <  next REPEAT: drop. With the same `run` and another CRC than before: two writers disagree, stop.
    (seq, part) == next ACCEPT: next is (seq, part + 1), or (seq + 1, 0) after the final part.
    (seq, part) >  next HoleError, with the missing range.

A derived topic goes on by one or back, never over a hole, so the first unseen message always equals `next`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from runtime.errors import BarographError
from schemas.message import Message

REMEMBERED: Final = 65_536
"""Checksums kept per partition to tell an honest repeat from a conflict. A repeat reaches back to the last checkpoint
(30 s at most); at 2,000 messages a second that is 60,000. Fewer would let an old conflict pass as a repeat; more only
costs memory (about 100 bytes each)."""


Place = tuple[int, int]
"""(seq, part) of a message."""


def followers(place: Place) -> tuple[Place, Place]:
    """The places that may come after one: the next part, or the next root."""
    return (place[0], place[1] + 1), (place[0] + 1, 0)


@dataclass(frozen=True, slots=True)
class Placed:
    """A message with its place for ever.

    Attributes:
        message: the message.
        seq, part: number of its root message, and its number among those of this seq.
        deleted: whether only its place is left.
    """

    message: Message
    seq: int
    part: int
    deleted: bool = False


class Verdict(Enum):
    """What a consumer does with a message."""

    ACCEPT = "accept"
    REPEAT = "repeat"


class HoleError(BarographError):
    """Messages are missing between what was expected and what came."""

    def __init__(self, where: str, expected: tuple[int, int], got: tuple[int, int]) -> None:
        self.where, self.expected, self.got = where, expected, got
        super().__init__(
            f"{where}: messages from seq {expected[0]}.{expected[1]} to before {got[0]}.{got[1]} are missing",
            remedy="the topic was trimmed or damaged: replace the tape, or start from a newer checkpoint",
        )


class ConflictError(BarographError):
    """The same place was written twice with different bytes by the same run: determinism is broken."""

    def __init__(self, where: str, seq: int, part: int) -> None:
        self.where, self.seq, self.part = where, seq, part
        super().__init__(
            f"{where}: seq {seq} part {part} came twice with different bytes from one run",
            remedy="stop every worker of this line, keep the topic for analysis, and replay the tape",
        )


@dataclass(slots=True)
class Sequence:
    """State of the rule for one partition of one topic.

    Attributes:
        where: topic and partition, for messages to people.
        next_seq, next_part: what is expected.
        dropped: repeats dropped so far.
    """

    where: str
    next_seq: int = 0
    next_part: int = 0
    dropped: int = 0
    _seen: OrderedDict[tuple[int, int], tuple[str, int]] = field(default_factory=OrderedDict)

    def check(self, seq: int, part: int, *, last: bool, run: str = "", crc32: int = 0) -> Verdict:
        """Judge one message and move on if it is accepted.

        Raises:
            HoleError: messages before it are missing; state is unchanged.
            ConflictError: a repeat differs from the first.
        """
        verdict = self.judge(seq, part, run=run, crc32=crc32)
        if verdict is Verdict.ACCEPT:
            self.accept(seq, part, last=last, run=run, crc32=crc32)
        return verdict

    def judge(self, seq: int, part: int, *, run: str = "", crc32: int = 0) -> Verdict:
        """Judge one message; what is expected next stays the same.

        Raises:
            HoleError: messages before it are missing.
            ConflictError: a repeat differs from the first.
        """
        got, expected = (seq, part), (self.next_seq, self.next_part)
        if got > expected:
            raise HoleError(self.where, expected, got)
        if got == expected:
            return Verdict.ACCEPT
        first = self._seen.get(got)
        if first is not None and first[0] == run and first[1] != crc32:
            raise ConflictError(self.where, seq, part)
        self.dropped += 1
        return Verdict.REPEAT

    def accept(self, seq: int, part: int, *, last: bool, run: str = "", crc32: int = 0) -> None:
        """Move on past a message that was judged `ACCEPT`."""
        self._seen[seq, part] = (run, crc32)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self.next_seq, self.next_part = (seq + 1, 0) if last else (seq, part + 1)
