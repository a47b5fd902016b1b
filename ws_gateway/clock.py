"""The clock of a replay: up to which event time rows may be shown. Several subscriptions may share one.

    as fast as it goes    no limit: rows go as the reader takes them
    paced by a factor     limit = event time at the anchor + factor * time since the anchor
    paused                the limit stands; a step moves it

Whoever seeks moves everyone on the clock: `target` says where to, and `turn` counts how often. There is no clock in
here: callers say what time it is (monotonic, ns).
"""

from collections.abc import Callable
from typing import Final

from ws_gateway.request import Start

FOREVER: Final = (1 << 63) - 1
"""Event time that no row reaches."""

NEVER: Final = -(1 << 63)
"""Event time before every row."""


class ReplayClock:
    """One replay's time.

    Attributes:
        factor: event seconds per second; None: as fast as it goes.
        paused: whether nothing goes on by itself.
        target, turn: where the last seek led, and how many there were.
        began_ns: event time at which the first row begins that it led to; NEVER before whoever sought has found it.
        led: whether whoever sought is still there to find it.
        shown_ns: event time of the newest row that went out since then; NEVER before the first.
        shared: whether it has a name, so that others may be on it.
        owner: whose it is; empty where nobody else can be on it.
        listeners: called when something changed; of a clock that is not shared nobody else needs to know.
    """

    __slots__ = (
        "__weakref__", "_mono_ns", "_t_ns", "began_ns", "factor", "led", "listeners", "owner", "paused", "shared",
        "shown_ns", "target", "turn",
    )  # fmt: skip

    def __init__(self, *, shared: bool = False, owner: str = "", paused: bool = False) -> None:
        self.factor: float | None = None
        self.paused = paused
        self.shared = shared
        self.owner = owner
        self.target: Start | None = None
        self.led = False
        self.turn = 0
        self.listeners: set[Callable[[], None]] | tuple[()] = set() if shared else ()
        self._t_ns = NEVER
        self._mono_ns = 0
        self.began_ns = self.shown_ns = NEVER

    def limit_ns(self, mono_ns: int) -> int:
        """Event time up to which rows may go now, inclusive."""
        if self.paused:
            return self._t_ns
        if self.factor is None:
            return FOREVER
        return self._t_ns if self._t_ns == NEVER else self._t_ns + int((mono_ns - self._mono_ns) * self.factor)

    def due_ns(self, t_ns: int) -> int:
        """Monotonic time at which rows of `t_ns` may go; 0 if that depends on somebody."""
        if self.paused or self.factor is None or self._t_ns == NEVER:
            return 0
        return self._mono_ns + int((t_ns - self._t_ns) / self.factor) + 1

    def begin(self, t_ns: int, mono_ns: int) -> None:
        """The first row of a paced replay sets the clock, unless it goes already."""
        if self._t_ns == NEVER and self.factor is not None and not self.paused:
            self._t_ns, self._mono_ns = t_ns, mono_ns

    def shown(self, t_ns: int) -> None:
        """Rows up to this event time went out."""
        self.shown_ns = max(self.shown_ns, t_ns)

    def found(self, t_ns: int) -> None:
        """Whoever sought knows at which event time the first row begins there; FOREVER: there is none."""
        if self.began_ns == NEVER:
            self.began_ns = t_ns
            self._tell()

    def lost(self) -> None:
        """Whoever sought has left and found nothing: nobody knows where the seek led."""
        if self.began_ns == NEVER:
            self.led = False
            self._tell()

    def pause(self, mono_ns: int) -> None:
        """Stand still where it is."""
        if not self.paused:
            self._anchor(mono_ns)
            self.paused = True
            self._tell()

    def resume(self, mono_ns: int) -> None:
        """Go on from where it stands."""
        if self.paused:
            self.paused = False
            self._mono_ns = mono_ns
            self._tell()

    def set_speed(self, factor: float | None, mono_ns: int) -> None:
        """Change the pace from here on; None: as fast as it goes."""
        if not self.paused:
            self._anchor(mono_ns)
        self.factor = factor
        self._tell()

    def step_to(self, t_ns: int) -> None:
        """A paused clock is moved on to the row that somebody stepped to."""
        if t_ns > self._t_ns:
            self._t_ns = t_ns
            self._tell()

    def seek(self, target: Start) -> None:
        """Everyone goes to `target`; a paced clock starts anew with the first row found there."""
        self.target = target
        self.turn += 1
        self.led = True
        self._t_ns = self.began_ns = self.shown_ns = NEVER
        if target.kind == "live":
            self.factor, self.paused = None, False
        self._tell()

    def arrive(self) -> None:
        """The replay caught up with what is live."""
        self.factor = None

    def _anchor(self, mono_ns: int) -> None:
        """Take what it shows now as the point that it is counted from."""
        self._t_ns = self.shown_ns if self.factor is None else self.limit_ns(mono_ns)
        self._mono_ns = mono_ns

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()
