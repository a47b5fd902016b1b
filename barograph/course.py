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

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

from barograph.errors import GatewayError, WrongFramesError
from barograph.frame import BATCH, DIGEST, END, HEADER, SCHEMA, Frame, payload_hash
from schemas.names import Cursor, parse_cursor

LIVE: Final = "live"


class Course:
    """State of one subscription.

    Args:
        request: fields of its `subscribe` message, without `op` and `id`.

    Attributes:
        number: id of the subscription, as last begun.
        agreed: the gateway's last answer; empty until it came.
        gaps: missing ranges of the source, as the gateway told them.
        left_out: rows that conflation left out so far.
        stale_ms: how long the source has been silent; 0 while rows come.
        lag_ms: event time that passed between the last row sent and the newest, ms, as last told.
        schema: Arrow schema message of what comes.
        resumed: connections after the first on which it went on.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.number = -1
        self.agreed: dict[str, Any] = {}
        self.gaps: list[dict[str, Any]] = []
        self.left_out = self.stale_ms = self.lag_ms = 0
        self.schema = b""
        self.resumed = 0
        self._request = dict(request)
        self._came: Frame | None = None
        self._got: Frame | None = None
        self._seeks: list[str] = []
        self._pace: dict[str, dict[str, Any]] = {}
        self._next = 0
        self._digest = sha256()

    # -- what to say -------------------------------------------------------------------------------------------------

    def begin(self, number: int, *, anew: bool = False) -> list[dict[str, Any]]:
        """The messages that open it, on a new connection or anew, under an id that was not used on it before.

        Args:
            number: the id.
            anew: whether what came and the program has not got is thrown away, and must come again.
        """
        if self._seeks:
            self._go(self._seeks[-1])
        if anew:
            self._came = self._got
        self.number, self._next, self._digest, self._seeks = number, 0, sha256(), []
        self.resumed += not anew
        request = self._request
        if self._came is not None:
            at = self._place(self._came)
            request = {**request, "tape": at.tape, "line": at.line, "from": str(at)}
        messages = [{"op": "subscribe", "id": self.number, **request}]
        return messages + [{"op": op, "id": self.number, **fields} for op, fields in self._pace.items()]

    def seek(self, to: str) -> dict[str, Any]:
        """The message that goes elsewhere; what comes before the gateway's answer is still of the place before."""
        self._seeks.append(to)
        if to == LIVE:
            self._pace = {}
        return {"op": "seek", "id": self.number, "to": to}

    def pace(self, op: str, **fields: Any) -> dict[str, Any]:
        """The message of `pause`, `resume`, `step` or `speed`; what lasts is said again on the next connection."""
        if op == "resume":
            self._pace.pop("pause", None)
        elif op == "speed":
            self._pace = {"speed": fields} | {k: v for k, v in self._pace.items() if k == "pause"}
        else:
            self._pace["pause"] = {}
        return {"op": op, "id": self.number, **fields}

    # -- what came ---------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> Frame | None:
        """A binary message: its frame; None for what is no rows. `ended` tells whether it was the last.

        Raises:
            WrongFramesError: a message is missing before it, or the digest is not that of what came.
        """
        kind, number = data[1], HEADER.unpack_from(data)[4]
        if number != self._next:
            raise WrongFramesError(f"number {number} came where {self._next} was due", self.cursor)
        self._next += 1
        if kind == DIGEST:
            self._compare(data[HEADER.size :])
            return None
        if self._request.get("digest"):
            self._digest.update(payload_hash(data))
        if kind == SCHEMA:
            self._take_schema(data[HEADER.size :])
        if kind != BATCH:
            return None
        self._came, self.stale_ms = Frame(data, self.schema), 0
        return self._came

    def got(self, frame: Frame) -> None:
        """The program has a frame that came."""
        self.left_out += frame.left_out
        if self._came is not None:  # else it is of the place before a seek
            self._got = frame

    @staticmethod
    def ended(data: bytes) -> bool:
        """Whether a binary message says that the tape has ended."""
        return data[1] == END

    def told(self, message: Mapping[str, Any]) -> None:
        """A text message about this subscription.

        Raises:
            GatewayError: an operation was refused, or the tape is another one now.
        """
        op = message["op"]
        if op == "subscribed":
            self._agree(message)
        elif op == "position":
            self.lag_ms = message["lag_ms"]
        elif op == "gap":
            self.gaps.append(dict(message))
        elif op == "stale":
            self.stale_ms = message["age_ms"]
        elif op == "error":
            if self._seeks:
                self._seeks.pop(0)  # answers come in order; a refused one leads nowhere
            raise GatewayError(message["code"], message["message"])

    @property
    def cursor(self) -> str:
        """The last row that the program has, or where it began; empty before either is known."""
        return str(self._place(self._got)) if self._got else self.agreed.get("cursor", "")

    def _place(self, frame: Frame) -> Cursor:
        """Cursor of a frame's last row, on the tape that a name or alias led to, as the gateway spells it."""
        seq, part, row = frame.place()
        if told := self.agreed.get("cursor"):
            return replace(parse_cursor(told), seq=seq, part=part, row=row)
        ask = self._request
        return Cursor(ask["tape"], ask.get("line", "main"), ask["stream"], ask["instrument"], seq, part, row)

    def _agree(self, message: Mapping[str, Any]) -> None:
        before, now = self.agreed.get("tape_id"), message.get("tape_id")
        if before and now != before:
            raise GatewayError("tape_replaced", f"tape {self._request['tape']} was made again", remedy="subscribe anew")
        self.agreed = dict(message)
        if self._seeks:
            self._go(self._seeks.pop(0))

    def _go(self, to: str) -> None:
        self._request["from"], self._came, self._got = to, None, None

    def _take_schema(self, schema: bytes) -> None:
        if self.schema and schema != self.schema:
            raise GatewayError("schema_changed", "the stream's columns are others now", remedy="subscribe anew")
        self.schema = schema

    def _compare(self, told: bytes) -> None:
        made, self._digest = self._digest.digest(), sha256()
        if made != told:
            raise WrongFramesError("the gateway's digest of them differs", self.cursor)
