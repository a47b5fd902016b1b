"""Messages that cannot be applied: how they are found, and what is written down about them.

Two kinds. A *broken* message is one that the reducer can name (`BrokenMessageError`): it is skipped at once. A message
at which the process fails unexpectedly may be innocent (no memory, a bad disk), so it is tried again: the process
leaves, its supervisor starts it again, and the tries are counted beside the checkpoints:

    an exception escapes   the third time at one message, it is skipped
    the process dies       without an exception (a crash in native code, killed for its memory) it cannot say where. A
                           start that ends without progress counts; from the third on the worker is *careful*: messages
                           whose outputs stand in the log killed nobody and are done again at full speed; of those
                           behind them it notes each before it applies it, tries one at a time in the whole process,
                           and stores its state after each, for 64 root messages. The tenth such death
                           skips the message that was noted

A skip is written once, by a conditional put, and is input from then on: outputs are a function of the input prefix, of
`run`, and of the skips. Whoever redoes the work, at any time, skips the same message for the same reason.

Layout in the object store, below `…/TAPE_ID/LINE/STAGE/PARTITION`:

    skips/…/<seq>.<part>.json     why, with error and traceback
    attempts/….json               `Attempts`
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

from runtime.errors import InputError
from runtime.object_store import ObjectStore

Place = tuple[int, int]
"""(seq, part) of a message."""

NOWHERE: Final[Place] = (-1, 0)
"""The place of no message: nothing is being tried."""

FAILURES_MAX: Final = 3
"""Exceptions at one message before it is skipped. A cause from outside (memory, disk) rarely strikes the same message
three times in a row; each costs a restart, during which the partition stands still."""

DEATHS_MAX: Final = 10
"""Deaths without progress and without an exception before the message is skipped. Higher than for exceptions, because
a machine that kills processes does not mean the message."""

CAREFUL_DEATHS: Final = 2
"""Deaths without progress after which each message is noted and its state stored: slow, but it finds the culprit."""

REASON_CHARS_MAX: Final = 200
"""Length of a reason in a header; the whole of it is in the dead letter."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A message that is not applied.

    Attributes:
        seq, part: its place.
        reason: why, one line of ASCII; it stands on the outputs.
        topic, offset, instrument: where it is.
        error: type of the error, empty if the process died without one.
        trace: traceback, empty if there was none.
        attempts: how often it was tried.
        run: who skipped it first.
    """

    seq: int
    part: int
    reason: str
    topic: str
    offset: int
    instrument: str
    error: str
    trace: str
    attempts: int
    run: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often the same thing was tried on a partition. Transitions are pure; whoever calls them stores the result.

    Attributes:
        start: first seq to do after the newest checkpoint, when the worker began.
        deaths: begins at `start` that ended neither well nor with an exception. A begin counts until it ends.
        at: the message tried last, as far as it was noted.
        failed_at: message at which an exception escaped.
        failures: how often in a row.
        error, trace: the last one.
    """

    start: int = -1
    deaths: int = 0
    at: Place = NOWHERE
    failed_at: Place = NOWHERE
    failures: int = 0
    error: str = ""
    trace: str = ""

    def begun(self, start: int) -> "Attempts":
        """A worker is about to apply its first message; it counts as a death until something better is known."""
        kept = self if self.failed_at >= (start, 0) else Attempts()  # what failed further on still counts
        if self.start == start:
            return replace(kept, start=start, deaths=self.deaths + 1, at=self.at)
        return replace(kept, start=start, deaths=1, at=(start, 0))

    def trying(self, at: Place) -> "Attempts":
        """The next message is about to be applied."""
        return replace(self, at=at)

    def failed(self, at: Place, error: str, trace: str) -> "Attempts":
        """An exception escaped at a message: the process will leave, and that is no death."""
        failures = self.failures + 1 if self.failed_at == at else 1
        deaths = max(0, self.deaths - 1)
        return replace(self, deaths=deaths, failed_at=at, failures=failures, error=error, trace=trace)

    def ended(self) -> "Attempts":
        """The worker gave the partition back in order."""
        return replace(self, deaths=max(0, self.deaths - 1))

    @property
    def careful(self) -> bool:
        """Whether each message must be noted before it is applied, as a worker that begins now should see it."""
        return self.deaths >= CAREFUL_DEATHS

    def verdict(self, place: Place) -> str:
        """Why the message at `place` must not be tried again; empty if it may. To be asked before `begun`."""
        if self.failures >= FAILURES_MAX and self.failed_at == place:
            return f"failed {self.failures} times ({self.error})"
        if self.deaths >= DEATHS_MAX and self.at == place:
            return f"the process died {self.deaths} times on it"
        return ""


class PoisonStore:
    """What is written down about poison on one partition of a stage.

    Args:
        store: where it lies.
        below: `TAPE_ID/LINE/STAGE/PARTITION`.
    """

    def __init__(self, store: ObjectStore, below: str) -> None:
        self._store = store
        self._skips, self._attempts = f"skips/{below}/", f"attempts/{below}.json"

    def skips(self) -> dict[Place, Skip]:
        """All skips of the partition by place.

        Raises:
            InputError: one is damaged.
        """
        known = [read_skip(self._store, name) for name in self._store.names(self._skips)]
        return {(skip.seq, skip.part): skip for skip in known}

    def write(self, skip: Skip) -> Skip:
        """Write a skip down unless there is one already; the one that stands."""
        name = f"{self._skips}{skip.seq:020d}.{skip.part:06d}.json"
        self._store.put_new(name, json.dumps(asdict(skip), indent=1).encode())
        return read_skip(self._store, name)

    def attempts(self) -> Attempts:
        """What was tried so far; a damaged note is none: counting begins anew."""
        try:
            raw = json.loads(self._store.get(self._attempts) or b"{}")
            places = {name: tuple(raw[name]) for name in ("at", "failed_at") if name in raw}
            return Attempts(**{**raw, **places})
        except (ValueError, TypeError):
            return Attempts()

    def note(self, attempts: Attempts) -> None:
        """Write down what is being tried."""
        self._store.put(self._attempts, json.dumps(asdict(attempts)).encode())


def read_skip(store: ObjectStore, name: str) -> Skip:
    """The skip that lies under a name.

    Raises:
        InputError: it is damaged; without it the line's outputs cannot be told.
    """
    try:
        return Skip(**json.loads(store.get(name) or b""))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the record of a skipped message, {name}, is damaged",
            remedy="write it again from the dead letter of that message (`barograph dlq list`)",
        ) from error


def one_line(text: str) -> str:
    """A reason as it may stand in a header: one line of ASCII, not too long."""
    flat = " ".join(text.split()).encode("ascii", "replace").decode()
    return flat if len(flat) <= REASON_CHARS_MAX else flat[: REASON_CHARS_MAX - 3] + "..."
