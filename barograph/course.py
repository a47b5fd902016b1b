"""The course of one subscription across connections: a state machine without I/O.

    messages = course.begin(number)  what to say on a new connection: subscribe, and the pace it had
    frame = course.take(data)        a binary message came; None if it holds no rows
    course.got(frame)                the program has it
    course.told(message)             a text message about it came
    course.cursor                    the last row that the program has

What is delivered is counted here, so a connection that breaks costs nothing: the next one begins behind the last row
that came, and the gateway sends every later row once, or says which are missing. Frames are numbered within one
connection; a number that jumps, or a digest of the gateway that is not the digest of what came, is never passed over.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from barograph.errors import GatewayError, WrongFramesError
from barograph.frame import BATCH, DIGEST, END, HEADER, SCHEMA, Frame, payload_hash
from schemas.names import Cursor, parse_cursor

LIVE: Final = "live"
MAIN: Final = "main"

TAPE_LINE: Final = "-"
TAPE_STREAMS: Final = frozenset({"gaps", "events"})
"""Streams that a tape has once and not for each line, and how their cursors spell the line."""

GAPS_KEPT: Final = 1_000
"""Newest gaps remembered. A stream with more is watched for its gaps, by whoever looks at each."""

NOT_YET: Final = frozenset({"unknown_tape", "unknown_line", "unknown_instrument"})
"""Refusals that a gateway which just came up gives until it has listed its tapes."""


class Course:
    """State of one subscription.

    Args:
        request: fields of its `subscribe` message, without `op` and `id`.

    Attributes:
        number: id of the subscription, as last begun.
        clock: name of the clock that it shares; None: its own.
        agreed: the gateway's last answer; empty until it came.
        gaps: newest missing ranges of the source, as the gateway told them.
        left_out: rows that conflation left out so far.
        stale_ms: how long the source has been silent; 0 while it is heard of.
        lag_ms: event time that passed between the last row sent and the newest, ms, as last told.
        schema: Arrow schema message of what comes.
        resumed: connections after the first on which it went on.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.number = -1
        self.clock: str | None = request.get("clock")
        self.agreed: dict[str, Any] = {}
        self.gaps: deque[dict[str, Any]] = deque(maxlen=GAPS_KEPT)
        self.left_out = self.stale_ms = self.lag_ms = 0
        self.schema = b""
        self.resumed = 0
        self._request = dict(request)
        self._aliases: Mapping[str, str] = {}
        self._open = self._fresh = self._described = self._heard = False
        self._told_at: Cursor | None = None  # the last place that the gateway named
        self._began = ""  # where it was when it was live and no row had come yet
        self._came: Frame | None = None
        self._got: Frame | None = None
        self._turn = self._steps = 0
        self._seeks: list[str] = []
        self._pace: dict[str, dict[str, Any]] = {}
        self._next = 0
        self._digest = sha256()

    # -- what to say -------------------------------------------------------------------------------------------------

    def begin(
        self, number: int, *, anew: bool = False, aliases: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The messages that open it, on a new connection or anew, under an id that was not used on it before.

        Args:
            number: the id.
            anew: whether what came and the program has not got is thrown away, and must come again.
            aliases: other names of tapes, each with `tape/line`, as the gateway's hello has them.
        """
        if self._seeks:
            self._go(self._seeks[-1])
        if anew:
            self._came, self._began = self._got, ""
        self._fresh = anew or not self.agreed
        self._open = self._described = False
        self.number, self._next, self._digest, self._seeks = number, 0, sha256(), []
        request = self._request
        if self._came is not None:
            at = self._told_at = self._place(self._came)
            line = self._named()[1] if at.line == TAPE_LINE else at.line
            request = {**request, "tape": at.tape, "line": line, "from": str(at)}
        elif self._began and request["from"] == LIVE:
            request = {**request, "from": self._began}
        self._aliases = aliases or {}
        pacing = self._pacing()
        if pacing or "pause" in self._pace:
            request = {**request, "paused": True}
        messages = [{"op": "subscribe", **request}, *pacing]
        return [{**message, "id": number} for message in messages]

    def share(self, other: "Course") -> None:
        """Be on the clock of another one: whatever paces one paces both, also on the next connection."""
        if self._pace is not other._pace:
            other._pace.update(self._pace)
            self._pace = other._pace

    def part(self) -> None:
        """Be on a clock of its own again, at the pace that it has."""
        self._pace = dict(self._pace)

    def _pacing(self) -> list[dict[str, Any]]:
        """What brings back the pace, said to a clock that stands still: what is live has none, and no row is early."""
        messages: list[dict[str, Any]] = [{"op": "speed", **self._pace["speed"]}] if "speed" in self._pace else []
        if self.clock is not None and self._pace:
            messages.insert(0, {"op": "pause"})  # others may be on it, so that it goes already
        if "pause" not in self._pace:
            return [*messages, {"op": "resume"}] if messages else []
        if self._steps:
            messages.append({"op": "step", "bins": self._steps})
        return messages

    def seek(self, to: str) -> dict[str, Any]:
        """The message that goes elsewhere; what comes before the gateway's answer is still of the place before."""
        self._seeks.append(to)
        if to == LIVE:
            self._pace.clear()
        self._steps = 1 if "pause" in self._pace else 0  # the gateway shows one row of where it leads
        return {"op": "seek", "id": self.number, "to": to}

    def pace(self, op: str, **fields: Any) -> dict[str, Any]:
        """The message of `pause`, `resume`, `step` or `speed`; what lasts is said again on the next connection."""
        if op == "resume":
            self._pace.pop("pause", None)
        elif op == "speed":
            self._pace["speed"] = fields
        else:
            self._pace["pause"] = {}
        if op != "speed":
            self._steps = fields.get("bins", 0)
        return {"op": op, "id": self.number, **fields}

    # -- what came ---------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> Frame | None:
        """A binary message: its frame; None for what is no rows. `ended` tells whether it was the last.

        Raises:
            WrongFramesError: a message is missing before it, or the digest is not that of what came.
            GatewayError: its rows have another form than was agreed.
        """
        kind, number, left_out = data[1], *HEADER.unpack_from(data)[4:6]
        if number != self._next:
            raise WrongFramesError(f"number {number} came where {self._next} was due", self.cursor)
        self._next += 1
        if kind != BATCH:
            self.left_out += left_out
        if kind == DIGEST:
            self._compare(data[HEADER.size :])
        elif kind == END:
            self._described = False
        elif self._request.get("digest"):
            self._digest.update(payload_hash(data))
        if kind == SCHEMA:
            self._take_schema(data[HEADER.size :])
        return self._take_rows(data) if kind == BATCH else None

    def _take_rows(self, data: bytes) -> Frame:
        if not self._described:
            raise WrongFramesError("rows came before their schema", self.cursor)
        self._came, self.stale_ms = Frame(data, self.schema, self._turn), 0
        if self._steps:
            self._steps = max(0, self._steps - self._came.to_arrow().num_rows)
        return self._came

    def got(self, frame: Frame) -> None:
        """The program has a frame that came."""
        self.left_out += frame.left_out
        if frame.turn == self._turn:  # else it is of the place before a seek
            self._got = frame

    @staticmethod
    def ended(data: bytes) -> bool:
        """Whether a binary message says that the tape has ended."""
        return data[1] == END

    def told(self, message: Mapping[str, Any]) -> bool:
        """A text message about this subscription.

        Returns:
            Whether it is to be begun again in a moment: the gateway does not know yet what it knew.

        Raises:
            GatewayError: an operation was refused, or the tape is another one now.
        """
        op = message["op"]
        if op == "subscribed":
            self._agree(message)
        elif op == "position":
            self._look_where(message)
        elif op == "gap":
            self.gaps.append(dict(message))
        elif op == "stale":
            self.stale_ms, self._heard = message["age_ms"], False
        elif op == "error":
            if not self._open and not self._fresh and message["code"] in NOT_YET:
                return True
            if self._seeks:
                self._seeks.pop(0)  # answers come in order; a refused one leads nowhere
            raise GatewayError(message["code"], message["message"])
        return False

    @property
    def cursor(self) -> str:
        """The last row that the program has, or where it began; empty before either is known."""
        return str(self._place(self._got)) if self._got else self.agreed.get("cursor", "")

    def _place(self, frame: Frame) -> Cursor:
        """Cursor of a frame's last row, on the tape that a name or alias led to, as the gateway spells it."""
        seq, part, row = frame.place()
        if self._told_at is not None:
            return replace(self._told_at, seq=seq, part=part, row=row)
        tape, line = self._named()
        stream = self._request["stream"]
        line = TAPE_LINE if stream in TAPE_STREAMS else line
        return Cursor(tape, line, stream, self._request["instrument"], seq, part, row)

    def _named(self) -> tuple[str, str]:
        """Tape and line that the request means, by what the aliases were on this connection."""
        tape, line = self._request["tape"], self._request["line"]
        if tape not in self._aliases:
            return tape, line
        tape, own = self._aliases[tape].split("/")
        return tape, own if line == MAIN else line

    def _agree(self, message: Mapping[str, Any]) -> None:
        before, now = self.agreed.get("tape_id"), message.get("tape_id")
        if before and now != before:
            raise GatewayError("tape_replaced", f"tape {self._request['tape']} was made again", remedy="subscribe anew")
        self.agreed = dict(message)
        if self._seeks:
            self._go(self._seeks.pop(0))
        elif not self._open:
            self.resumed += not self._fresh
        elif "from" in message:
            self._go(message["from"])  # somebody on the same clock went elsewhere
        self._open = True
        self._name(message["cursor"])
        self._began = self._began or message["cursor"]

    def _look_where(self, message: Mapping[str, Any]) -> None:
        """Each second: where the gateway's sending stands, and, if nothing else is said until the next, no silence."""
        self._name(message["cursor"])
        self.lag_ms = message["lag_ms"]
        if message.get("live"):
            self._pace.pop("speed", None)  # a paced replay has arrived
        if self._heard:
            self.stale_ms = 0
        self._heard = True

    def _name(self, cursor: str) -> None:
        if cursor:
            self._told_at = parse_cursor(cursor)

    def _go(self, to: str) -> None:
        self._request["from"], self._came, self._got, self._began = to, None, None, ""
        self._turn += 1

    def _take_schema(self, schema: bytes) -> None:
        if self.schema and schema != self.schema and not _same(schema, self.schema):
            raise GatewayError("schema_changed", "the stream's columns are others now", remedy="subscribe anew")
        self.schema, self._described = schema, True

    def _compare(self, told: bytes) -> None:
        made, self._digest = self._digest.digest(), sha256()
        if made != told:
            raise WrongFramesError("the gateway's digest of them differs", self.cursor)


def _same(one: bytes, other: bytes) -> bool:
    """Whether two schema messages say the same in other bytes, as two releases of Arrow may."""
    import pyarrow as pa

    try:
        read = [pa.ipc.read_schema(pa.py_buffer(message)) for message in (one, other)]
    except (pa.ArrowInvalid, OSError):
        return False
    return bool(read[0].equals(read[1], check_metadata=True))
