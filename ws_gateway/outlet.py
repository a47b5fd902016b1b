"""From sessions to sockets: who has something to say is put on a list, and one pass over the list says it all.

A frame for a thousand clients is a thousand writes. A task for each, woken by an event, would cost several times what
the write costs; so whoever is woken only gets on the list, and the pass asks what may go: first the cohorts, whose
members all get the same, then sessions, one by one. What a client has not read waits as a place in a ring and not as
bytes: a pass writes while the socket's buffer is low, a few messages each, so that nobody holds up the others. When the
buffer has drained, the outlet is put on the list again.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from ws_gateway import metrics
from ws_gateway.channel import Instant
from ws_gateway.cohort import Cohort, Members
from ws_gateway.frames import BINARY_FRAME, TEXT_FRAME, frame_start
from ws_gateway.protocol import Session
from ws_gateway.subscription import Subscription
from ws_gateway.wire import WRITE_BYTES_MAX, Wire, spread

TURN_MESSAGES: Final = 8
"""Messages that one outlet writes before the others have their turn."""


def clock() -> Instant:
    """This moment."""
    return Instant(time.monotonic_ns(), time.time_ns())


class Outlets:
    """The list of cohorts and outlets that may have something to say, and the pass over it."""

    def __init__(self) -> None:
        self._waiting: list[Outlet] = []
        self._cohorts: list[Cohort] = []
        self._pending: asyncio.Handle | None = None
        self._data, self._control = metrics.MESSAGES.labels("data"), metrics.MESSAGES.labels("control")

    def add(self, outlet: "Outlet") -> None:
        """Put an outlet on the list."""
        self._waiting.append(outlet)
        self._soon()

    def due(self, cohort: Cohort) -> None:
        """Put a cohort on the list."""
        if cohort not in self._cohorts:
            self._cohorts.append(cohort)
            self._soon()

    def spread(self, members: Members, begin: bytes, sent: int, age_us: int, payload: bytes) -> Sequence[Subscription]:
        """Write a frame to all members of a cohort."""
        return spread(members, begin, sent, age_us, payload)

    def _soon(self) -> None:
        if self._pending is None:
            self._pending = asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        waiting, cohorts = self._waiting, self._cohorts
        self._waiting, self._cohorts, self._pending = [], [], None
        now = clock()
        data = control = sent = 0
        for cohort in cohorts:
            data_of, sent_of = cohort.step(now)
            data, sent = data + data_of, sent + sent_of
        for outlet in waiting:
            outlet.listed = False
            data_of, control_of, sent_of = outlet.flush(now)
            data, control, sent = data + data_of, control + control_of, sent + sent_of
        self._data.inc(data)
        self._control.inc(control)
        metrics.SENT_BYTES.inc(sent)


class Outlet:
    """Where one session's messages leave.

    Attributes:
        wire: the connection.
        listed: whether it is on the list.
        full_since_ns: since when the socket's buffer is above its limit; 0 while it is not.
    """

    __slots__ = ("_ending", "_outlets", "_session", "_timer", "full_since_ns", "listed", "wire")

    def __init__(self, wire: Wire, outlets: Outlets) -> None:
        self.wire = wire
        self.listed = self._ending = False
        self.full_since_ns = 0
        self._outlets = outlets
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None

    def speak(self, session: Session) -> None:
        """Begin to say what a session has to say."""
        self._session = session
        self.set()

    def set(self) -> None:
        """There may be something to say."""
        if not self.listed and self._session is not None:
            self.listed = True
            self._outlets.add(self)

    def close(self) -> None:
        """The connection is gone."""
        self._session = None
        if self._timer is not None:
            self._timer.cancel()

    def flush(self, now: Instant) -> tuple[int, int, int]:
        """Write what may go now.

        Returns:
            Data messages, control messages, bytes.
        """
        session, wire = self._session, self.wire
        data = control = sent = 0
        if session is None or self._ending or not wire.is_open:
            return 0, 0, 0
        for _ in range(TURN_MESSAGES):
            if wire.transport.get_write_buffer_size() > WRITE_BYTES_MAX:
                if not self.full_since_ns:
                    self.full_since_ns = now.mono_ns
                    session.rest()
                return data, control, sent
            self.full_since_ns = 0
            message = session.next_parts(now)
            if message is None:
                self._wait(session)
                return data, control, sent
            if isinstance(message, str):
                text = message.encode()
                wire.put(frame_start(TEXT_FRAME, len(text)), text)
                control, sent = control + 1, sent + len(text)
            else:
                header, payload = message
                size = len(header) + len(payload)
                wire.put(frame_start(BINARY_FRAME, size) + header, payload)
                data, sent = data + 1, sent + size
        self.set()
        return data, control, sent

    def _wait(self, session: Session) -> None:
        """Nothing may go now: close if that is all, or come back when a rate limit or a clock lets something out."""
        closing = session.closing
        if closing is not None:
            metrics.CLOSED.labels(str(closing.code)).inc()
            self._ending = True
            self.wire.end(closing.code, closing.reason[:120])
            return
        if self.wire.fd >= 0 and self.wire.idle:  # with TLS each client's bytes are its own, and nothing is shared
            session.settle(self.wire)
        due_ns = session.next_due_ns()
        if due_ns:
            if self._timer is not None:
                self._timer.cancel()
            delay_s = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.set)
