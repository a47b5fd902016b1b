"""Tape manifests: what a tape is, kept beside its data; and aliases, other names for a tape and line.

The manifest holds what must never change while a tape lives (its random id, its partition count, the partition of each
instrument, the cutting rule of its blocks) and what grows (sources, lines, state). It lies in the object store at
`tapes/TAPE/manifest.json` and is announced on `ops.tapes.v1` by whoever changes it. A lake holds a copy beside its
data, so that a tape can be had from the lake alone: its sink makes it, and whoever changes the manifest changes both.

An alias (`aliases/NAME.json`) lets readers follow "the one to look at" while it moves from line to line. It never has
the name of a tape, it is for reading only, and what is written names the tape itself.
"""

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, get_args

from runtime.errors import InputError
from runtime.object_store import ObjectStore
from schemas.message import Message
from schemas.names import is_name

log = logging.getLogger(__name__)

State = Literal["open", "finished", "deleted"]
_STATES: Final[tuple[State, ...]] = get_args(State)
_ROOT: Final = "tapes"
_ALIASES: Final = "aliases"


@dataclass(frozen=True, slots=True)
class Source:
    """One input file of a tape: its name, sha256 in hex, and number of records."""

    name: str
    sha256: str
    records: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument of a tape.

    Attributes:
        partition: the partition that holds all its messages, assigned once.
        tick_px: tick size, 1e-9.
        bucket: ticks in one grid tick.
        tick_source: where the tick size comes from: option, table, file, inferred.
        venue_symbol: the venue's own name.
        lot: size of one lot in the venue's unit, decimal.
    """

    partition: int
    tick_px: int
    bucket: int = 1
    tick_source: str = ""
    venue_symbol: str = ""
    lot: str = "1"


@dataclass(frozen=True, slots=True)
class Line:
    """One configuration of the derived stages.

    Attributes:
        run: identity of what computes it.
        config: its semantic settings.
        complete: whether everything of a finished tape has left the stages and is confirmed by every sink.
    """

    run: str
    config: dict[str, Any] = field(default_factory=dict)
    complete: bool = False


KEPT_OF_A_DAY: Final = ("definition", "end")
"""Kinds of messages that stay when a day is deleted: without them nobody could read what is left."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A range of messages that was deleted on demand: in it, readers expect nothing of the instrument.

    It holds for the raw stream and for all that was derived from it, since both are numbered by `seq`.

    Attributes:
        instrument, partition: whose messages.
        seq_first, seq_last: the range, both within.
        day: UTC day that was asked for, `2024-01-02`; empty: everything of the instrument. Of a day, messages of
            `KEPT_OF_A_DAY` stay.
        at: when it was asked for, UTC.
    """

    instrument: str
    partition: int
    seq_first: int
    seq_last: int
    day: str = ""
    at: str = ""

    def covers(self, partition: int, seq: int, instrument: str, kind: str) -> bool:
        """Whether the message of an instrument, of a kind and at a place, is deleted by it."""
        inside = partition == self.partition and self.seq_first <= seq <= self.seq_last
        kept = self.day and kind in KEPT_OF_A_DAY
        return inside and instrument == self.instrument and not kept


@dataclass(frozen=True, slots=True)
class Manifest:
    """A tape.

    Attributes:
        tape: its name.
        tape_id: random, 16 hex digits; another one after the tape was replaced.
        state: `open` until the `end` of every instrument was published, then `finished`; `deleted` while it is being
            deleted: its workers stop, and whoever deletes goes on.
        live: whether a clock drives it; such a tape has no end.
        partitions: partition count of all its topics; never changes.
        base: what is added to a raw offset to give `seq`, per partition.
        instruments: name → instrument.
        sources: input files in time order.
        blocking: rule by which its raw blocks were cut; part of the content.
        topic_ids: topic → Kafka's id of it, so that a re-created topic is noticed.
        lines: line → who computes it.
        deletions: what was deleted of it, in the order in which that was asked for.
        restored: ids of record topics that were filled again, each message at its old offset → up to which offset, for
            every partition. Behind it, and in any other new topic of records, stand new ones.
    """

    tape: str
    tape_id: str
    state: State = "open"
    live: bool = False
    partitions: int = 1
    base: tuple[int, ...] = (0,)
    instruments: dict[str, Instrument] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    blocking: dict[str, Any] = field(default_factory=dict)
    topic_ids: dict[str, str] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    deletions: tuple[Deletion, ...] = ()
    restored: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def deletes(self, partition: int, seq: int, message: Message) -> bool:
        """Whether a message, raw or derived, was deleted on demand."""
        instrument, kind = message.instrument, message.envelope.kind
        return any(deletion.covers(partition, seq, instrument, kind) for deletion in self.deletions)

    def knows_more_than(self, other: "Manifest") -> bool:
        """Whether it is a later word on the same tape: more is deleted of it, or it is nearer to its end."""
        further = _STATES.index(self.state) > _STATES.index(other.state)
        return self.tape_id == other.tape_id and (further or len(self.deletions) > len(other.deletions))

    def to_json(self) -> str:
        """The manifest as JSON, keys in order of meaning."""
        return json.dumps(asdict(self), indent=2)

    def require_line(self, name: str) -> Line:
        """A line of this tape.

        Raises:
            InputError: there is no such line.
        """
        if name not in self.lines:
            known = ", ".join(self.lines) or "none yet"
            raise InputError(
                f"tape {self.tape} has no line {name!r} (known: {known})", remedy="see `barograph tape show`"
            )
        return self.lines[name]

    def group(self, line: str, stages: Sequence[str]) -> str:
        """Consumer group of the workers of the same stages on a line.

        The tape's random id keeps a replaced tape from meeting the old one's commits. Names of lines hold `-` and no
        `.`, so no line's group is, or begins like, that of another.
        """
        return f"barograph-{self.tape_id}.{line}.{'-'.join(stages)}"

    def with_line(self, name: str, line: Line) -> "Manifest":
        """This manifest with a line added or replaced."""
        return replace(self, lines={**self.lines, name: line})


def manifest_from_json(text: str | bytes) -> Manifest:
    """The manifest that `Manifest.to_json` wrote."""
    raw = json.loads(text)
    raw["base"] = tuple(raw["base"])
    raw["sources"] = tuple(Source(**s) for s in raw["sources"])
    raw["instruments"] = {n: Instrument(**i) for n, i in raw["instruments"].items()}
    raw["lines"] = {n: Line(**line) for n, line in raw["lines"].items()}
    raw["deletions"] = tuple(Deletion(**d) for d in raw.get("deletions", ()))
    raw["restored"] = {number: tuple(ends) for number, ends in raw.get("restored", {}).items()}
    return Manifest(**raw)


def new_tape(name: str, *, partitions: int = 1, **known: Any) -> Manifest:
    """A manifest for a tape that does not exist yet.

    Raises:
        InputError: the name is not legal.
    """
    if not is_name(name):
        raise InputError(
            f"{name!r} cannot name a tape", remedy="use up to 40 of a-z, 0-9 and '-', other than 'ref' and 'ops'"
        )
    return Manifest(name, secrets.token_hex(8), partitions=partitions, base=(0,) * partitions, **known)


@dataclass(frozen=True, slots=True)
class Alias:
    """What an alias stands for: a tape, and a line of it."""

    tape: str
    line: str = "main"


class TapeStore:
    """The manifests and aliases of an object store.

    Args:
        store: where they lie.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def names(self) -> list[str]:
        """Tapes that exist, in order."""
        found = (name.split("/") for name in self._store.names(f"{_ROOT}/"))
        return sorted(parts[1] for parts in found if parts[2:] == ["manifest.json"])

    def load(self, tape: str) -> Manifest | None:
        """A tape's manifest; None if there is no such tape."""
        data = self._store.get(self._name(tape))
        return None if data is None else manifest_from_json(data)

    def require(self, tape: str) -> Manifest:
        """A tape's manifest.

        Raises:
            InputError: there is no such tape.
        """
        manifest = self.load(tape)
        if manifest is None:
            known = ", ".join(self.names()) or "none yet"
            raise InputError(f"there is no tape {tape!r} (known: {known})", remedy="see `barograph tape list`")
        return manifest

    def save(self, manifest: Manifest) -> None:
        """Write a manifest durably."""
        self._store.put(self._name(manifest.tape), manifest.to_json().encode())

    def save_copy(self, manifest: Manifest) -> bool:
        """Write a manifest as it was read a while ago, unless one that knows more stands here; whether it did."""
        name, data = self._name(manifest.tape), manifest.to_json().encode()
        while True:
            held = self._store.get(name)
            if held is not None and manifest_from_json(held).knows_more_than(manifest):
                return False
            if self._store.swap(name, held, data):
                return True

    def delete(self, tape: str) -> None:
        """Forget a tape's manifest."""
        self._store.delete(self._name(tape))

    def aliases(self) -> dict[str, Alias]:
        """Every alias by its name, in order; those whose file is damaged are left out, with a warning."""
        files = sorted(name.removeprefix(f"{_ALIASES}/") for name in self._store.names(f"{_ALIASES}/"))
        found = {}
        for name in (file.removesuffix(".json") for file in files):
            try:
                alias = self.alias(name)
            except InputError as error:
                log.warning("%s", error)
                continue
            if alias is not None:
                found[name] = alias
        return found

    def alias(self, name: str) -> Alias | None:
        """What an alias stands for; None if there is none of that name.

        Raises:
            InputError: its file is damaged.
        """
        data = self._store.get(f"{_ALIASES}/{name}.json") if is_name(name) else None
        if data is None:
            return None
        try:
            return Alias(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"the file of alias {name} is damaged", remedy=f"remove it: `barograph tape alias {name} --delete`"
            ) from error

    def resolve(self, name: str, line: str | None = None) -> tuple[Manifest, str]:
        """The tape and line that a reader means: a tape's own name, or an alias.

        Args:
            name: tape or alias.
            line: line that was asked for; None for the alias's own, `main` for a tape.

        Raises:
            InputError: neither is there, an alias names a tape that is gone, or the tape has no such line.
        """
        alias = None if self.load(name) is not None else self.alias(name)
        if alias is None:
            manifest, wanted = self.require(name), line or "main"
        else:
            manifest, wanted = self._named_by(name, alias), line or alias.line
        manifest.require_line(wanted)
        return manifest, wanted

    def _named_by(self, name: str, alias: Alias) -> Manifest:
        manifest = self.load(alias.tape)
        if manifest is None:
            raise InputError(
                f"alias {name} names tape {alias.tape}, which is gone",
                remedy=f"point it elsewhere, or remove it: `barograph tape alias {name} --delete`",
            )
        return manifest

    def set_alias(self, name: str, alias: Alias) -> None:
        """Make an alias or point it elsewhere, all at once.

        Raises:
            InputError: the name is not legal or is that of a tape, or there is no such tape or line.
        """
        if not is_name(name):
            raise InputError(f"{name!r} cannot name an alias", remedy="use up to 40 of a-z, 0-9 and '-'")
        if self.load(name) is not None:
            raise InputError(f"{name} is the name of a tape", remedy="give the alias another name")
        self.require(alias.tape).require_line(alias.line)
        self._store.put(f"{_ALIASES}/{name}.json", json.dumps(asdict(alias)).encode())

    def delete_alias(self, name: str) -> None:
        """Remove an alias; the tape stays.

        Raises:
            InputError: there is no such alias.
        """
        if f"{_ALIASES}/{name}.json" not in set(self._store.names(f"{_ALIASES}/")):
            known = ", ".join(self.aliases()) or "none yet"
            raise InputError(f"there is no alias {name!r} (known: {known})", remedy="see `barograph tape list`")
        self._store.delete(f"{_ALIASES}/{name}.json")

    def refuse_alias(self, name: str) -> None:
        """Refuse to make a tape under the name of an alias: readers would be led elsewhere from one day to the next.

        Raises:
            InputError: there is an alias of that name.
        """
        alias = self.alias(name)
        if alias is not None:
            raise InputError(
                f"{name} is an alias of tape {alias.tape}, so no tape can be made under it",
                remedy=f"give another --tape, or remove it: `barograph tape alias {name} --delete`",
            )

    @staticmethod
    def _name(tape: str) -> str:
        return f"{_ROOT}/{tape}/manifest.json"
