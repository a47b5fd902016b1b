"""Readers that want the same next: subscriptions of one layout that have all there is and wait for the newest rows.

Nearly all messages of a busy gateway are such: one row comes, and a thousand clients get the same bytes. Asking each of
a thousand sessions what it has to say costs more than saying it. So a reader that has caught up, and of which nothing
is special, joins the cohort of its layout and forgets where it is: it is where the cohort is. The cohort makes the
frame once and gives it to every member's socket; what is a member's own are eight bytes of the header.

    reader ─► caught up, nothing to tell ─► member ─► its socket is full, or anything was asked or told ─► reader

A member leaves with the cohort's place, before anybody looks at it. What is not simply the next rows (gaps, the end,
another form) is nobody's business here: then all members leave and go on by themselves. No input or output, no clock.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ws_gateway.frames import (
    BINARY_FRAME,
    HEADER,
    U32_MAX,
    Block,
    Encoder,
    Piece,
    SchemaChangedError,
    frame_start,
)

if TYPE_CHECKING:
    from ws_gateway.channel import Channel, Instant
    from ws_gateway.subscription import Subscription

Members = dict["Subscription", tuple[int, int, Any]]
"""Subscription → how its numbers are counted from what the cohort sent, its id, and its wire."""


class Crew(Protocol):
    """What cohorts need of those who write."""

    def due(self, cohort: "Cohort") -> None:
        """A cohort may have something to send: call its `step` soon."""

    def spread(
        self, members: Members, begin: bytes, sent: int, age_us: int, payload: bytes
    ) -> "Sequence[Subscription]":
        """Write a frame to all members, see `ws_gateway.wire.spread`; gives those whose sockets were full."""


class NoCrew:
    """Nobody writes: sessions are asked one by one, as tests do."""

    def due(self, cohort: "Cohort") -> None:
        """There is nobody in it."""

    def spread(
        self, members: Members, begin: bytes, sent: int, age_us: int, payload: bytes
    ) -> "Sequence[Subscription]":
        """There is nobody to write to."""
        return tuple(members)


class Cohort:
    """Members of one channel and one layout.

    Attributes:
        number: ring number of the next row.
        sent: frames so far.
        last: the block that was sent last; None before.
        positions: what members are told each second, by id; the same for all, so it is written once until more is sent.
        members: who they are.
    """

    __slots__ = ("_crew", "_encoder", "channel", "last", "members", "number", "positions", "sent")

    def __init__(self, channel: "Channel", encoder: Encoder, crew: "Crew") -> None:
        self.channel, self._encoder, self._crew = channel, encoder, crew
        self.members: Members = {}
        self.number = channel.ring.next_row
        self.sent = 0
        self.last: Block | None = None
        self.positions: dict[int, str] = {}

    def wake(self) -> None:
        """There may be something to send."""
        self._crew.due(self)

    def join(self, subscription: "Subscription", wire: Any) -> bool:
        """Take a reader that has everything; whether the cohort is as far."""
        if self.number != self.channel.ring.next_row:
            return False
        self.members[subscription] = (subscription.number - self.sent, subscription.request.id, wire)
        return True

    def leave(self, subscription: "Subscription") -> int:
        """Let a member go; the number of its next message."""
        base, _, _ = self.members.pop(subscription)
        if not self.members:
            self.channel.forget(self._encoder)
        return base + self.sent

    def sent_to(self, subscription: "Subscription") -> bool:
        """Whether a member got anything since it joined."""
        return self.members[subscription][0] + self.sent > subscription.number

    def step(self, now: "Instant") -> tuple[int, int]:
        """Send the next frame to every member, or let all go if it is not a simple one.

        Returns:
            Frames and bytes.
        """
        channel, ring = self.channel, self.channel.ring
        told = channel.closed or self.number < ring.first_row or (channel.gaps and channel.gaps[-1][0] >= self.number)
        if told or (self.number >= ring.next_row and channel.ended):
            self._dissolve()
        if not self.members or self.number >= ring.next_row:
            return 0, 0
        block, start = ring.at(self.number)
        if start or block.rows > self._encoder.rows_max:
            self._dissolve()
            return 0, 0
        try:
            payload = self._encoder.frame([Piece(block, 0, block.rows)]).payload
        except SchemaChangedError:
            self._dissolve()  # each is told by itself
            return 0, 0
        count = len(self.members)
        self._send(block, payload, now)
        if self.members and (self.number < ring.next_row or channel.ended):
            self._crew.due(self)
        return count, count * (HEADER.size + len(payload))

    def _send(self, block: Block, payload: bytes, now: "Instant") -> None:
        begin = frame_start(BINARY_FRAME, HEADER.size + len(payload))
        age_us = 0 if block.arrived_ns < 0 else min(max(0, (now.wall_ns - block.arrived_ns) // 1000), U32_MAX)
        full = self._crew.spread(self.members, begin, self.sent, age_us, payload)
        self.sent += 1
        self.number += block.rows
        self.last = block
        self.positions.clear()
        for subscription in full:
            subscription.part()
            subscription.wake()

    def _dissolve(self) -> None:
        for subscription in tuple(self.members):
            subscription.part()
            subscription.wake()
