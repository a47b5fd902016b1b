"""One client's session of `barograph.v1`: a state machine without I/O.

The shell gives it what came (`receive`, `tick`, `drain`) and takes what must go (`next_message`, then `closing`):

    session = Session(hub, now)
    session.receive(text, now)            # a text message came
    while (m := session.next_message(now)) is not None: send(m)
    if session.closing: close(session.closing.code, session.closing.reason)

Every change of state stands in one table, `TABLE`: (phase of the session, track of the subscription, operation) gives
the next phase, the next track, and the action. What is not in the table is refused by name. Control goes before data;
subscriptions take turns.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from runtime.auth import LOCAL, Principal, RefusedError
from ws_gateway.channel import Instant
from ws_gateway.fanout import Hub
from ws_gateway.request import Refusal, parse_bins, parse_id, parse_request, parse_speed, parse_start
from ws_gateway.strictjson import TEXT_BYTES_MAX, BadJsonError, parse
from ws_gateway.subscription import BACKLOG_BYTES_MAX, Parts, Subscription

PROTOCOL: Final = "barograph.v1"
NS: Final = 1_000_000_000

HEARTBEAT_S: Final = 1.0
"""A client hears `position` this often. It is what a half-open connection is noticed by on the client's side."""

STALE_S: Final = 2.0
"""Silence of a topic after which clients are told. Live connectors send a clock every 0.5 s, so 2 s are four missed."""

AUTH_S: Final = 5.0
"""Time for a client to present its token, where one is needed. Longer only lets strangers hold connections."""

SUBSCRIPTIONS_MAX: Final = 16
"""Subscriptions of one connection. Each may have a layout of its own, with its cache (frames.CACHE_BYTES_MAX)."""

MESSAGES_PER_S: Final = 50.0
MESSAGES_BURST: Final = 100.0
"""Control messages a client may send. A console sends a few per click; 50 a second is a fault or an attack."""

OUTBOX_MAX: Final = 512
"""Control messages waiting for a client that does not read; beyond it the connection is closed."""

RETRY_AFTER_MS: Final = 1_000
"""Pause asked of a client whose connection is closed. A restart takes about a second; the shell draws a longer one for
each client when all must go at once, so that they do not all come back at once."""


class Code:
    """Close codes: those of RFC 6455 section 7.4.1, and ours."""

    POLICY = 1008
    TOO_BIG = 1009
    RESTART = 1012
    SLOW = 4001
    TOKEN = 4003
    SCHEMA = 4004


FATAL: Final = {"schema_changed": Code.SCHEMA, "slow": Code.SLOW}
"""Failures of a subscription that close the connection, and how."""


class Phase(Enum):
    """State of the session."""

    WAITING = "waiting for a token"
    OPEN = "open"
    CLOSED = "closed"


class Track(Enum):
    """State of one subscription; NONE is one that does not exist."""

    NONE = "none"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class Rule(NamedTuple):
    """One row of the table: where to go, and the method that does the work."""

    phase: Phase
    track: Track
    action: str


_W, _O, _C = Phase.WAITING, Phase.OPEN, Phase.CLOSED
_N, _R, _P, _E = Track.NONE, Track.RUNNING, Track.PAUSED, Track.ENDED

TABLE: Final[dict[tuple[Phase, Track, str], Rule]] = {
    # what clients ask
    (_W, _N, "auth"): Rule(_O, _N, "_admit"),
    (_O, _N, "auth"): Rule(_O, _N, "_check_token"),
    (_O, _N, "subscribe"): Rule(_O, _R, "_subscribe"),
    (_O, _R, "unsubscribe"): Rule(_O, _N, "_remove"),
    (_O, _P, "unsubscribe"): Rule(_O, _N, "_remove"),
    (_O, _E, "unsubscribe"): Rule(_O, _N, "_remove"),
    (_O, _R, "pause"): Rule(_O, _P, "_pause"),
    (_O, _P, "pause"): Rule(_O, _P, "_pause"),
    (_O, _P, "resume"): Rule(_O, _R, "_resume"),
    (_O, _R, "resume"): Rule(_O, _R, "_nothing"),
    (_O, _E, "pause"): Rule(_O, _E, "_pause"),
    (_O, _E, "resume"): Rule(_O, _E, "_resume"),
    (_O, _E, "speed"): Rule(_O, _E, "_speed"),
    (_O, _R, "step"): Rule(_O, _P, "_step"),
    (_O, _P, "step"): Rule(_O, _P, "_step"),
    (_O, _R, "speed"): Rule(_O, _R, "_speed"),
    (_O, _P, "speed"): Rule(_O, _P, "_speed"),
    (_O, _R, "seek"): Rule(_O, _R, "_seek"),
    (_O, _P, "seek"): Rule(_O, _P, "_seek"),
    (_O, _E, "seek"): Rule(_O, _R, "_seek"),
    # what the stream does
    (_O, _R, "end"): Rule(_O, _E, "_nothing"),
    (_O, _E, "turn"): Rule(_O, _R, "_nothing"),
    (_O, _R, "fail"): Rule(_O, _N, "_remove"),
    (_O, _P, "fail"): Rule(_O, _N, "_remove"),
    # what the gateway decides
    (_W, _N, "late"): Rule(_C, _N, "_close"),
    (_W, _N, "refuse"): Rule(_C, _N, "_close"),
    (_O, _N, "refuse"): Rule(_C, _N, "_close"),
    (_W, _N, "drain"): Rule(_C, _N, "_close"),
    (_O, _N, "drain"): Rule(_C, _N, "_close"),
}
"""The whole protocol. Session-wide operations stand under the track NONE.

Whether a subscription is paused is its clock's to say, and others may be on that clock: where a rule leads to RUNNING
or PAUSED, its action saw to it; a seek to live resumes. Also who is at the end has a clock, for others and for a seek.
"""

SESSION_WIDE: Final = frozenset({"auth", "late", "refuse", "drain"})
CLOCK_OPS: Final = frozenset({"pause", "resume", "step", "seek", "speed"})
"""Operations that move everyone on the subscription's clock."""

CLIENT_OPS: Final = frozenset({"auth", "subscribe", "unsubscribe", "pause", "resume", "step", "seek", "speed"})

PERMITTED: Final = CLIENT_OPS | {"subscribe past", "clock"}
"""What roles decide, of which hello names what this client may: a page need not try."""


class Guard(Protocol):
    """Judges tokens; `runtime.auth.Authority` does."""

    def admit(self, token: str, now_ns: int) -> Principal:
        """Whoever shows this token; raises RefusedError."""

    def ended(self, who: Principal, now_ns: int) -> str:
        """Why somebody who was admitted is so no longer; empty while he is."""


@dataclass(frozen=True, slots=True)
class Closing:
    """How the connection is to be closed once all control messages are out."""

    code: int
    reason: str


class _Entry:
    """A subscription, and whether it came to its end."""

    __slots__ = ("ended", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription, self.ended = subscription, False

    @property
    def track(self) -> Track:
        """State of the subscription."""
        if self.ended:
            return Track.ENDED
        return Track.PAUSED if self.subscription.paused else Track.RUNNING


class Session:
    """One client.

    Args:
        hub: what there is to subscribe to.
        now: the time of the connection.
        wake: called whenever `next_message` may have something new.
        guard: judge of tokens; None: no token is needed, and any is tolerated.
        principal: whoever showed a good token in the opening request already; None: nobody did.
        on_refused: called with a reason, and what was wanted, for everything that is refused to a client.
        peer: where a client without a name comes from; such clients share replay clocks with those of the same peer.
        opening: messages that it obeys by itself once it is open, as if the client had sent them.

    Attributes:
        principal: who this is; None while no token was shown.
        closing: None, or how the shell must close once `next_message` gives None.
    """

    __slots__ = (
        "_born_ns", "_bucket", "_bucket_ns", "_entries", "_guard", "_hub", "_now", "_on_refused", "_opening", "_outbox",
        "_peer", "_told_ns", "_turns", "_wake", "closing", "phase", "principal",
    )  # fmt: skip

    def __init__(
        self,
        hub: Hub,
        now: Instant,
        wake: Callable[[], None] = lambda: None,
        guard: Guard | None = None,
        principal: Principal | None = None,
        on_refused: Callable[[str, str], None] = lambda _reason, _what: None,
        peer: str = "",
        opening: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.principal = LOCAL if guard is None else principal
        self.phase = Phase.WAITING if self.principal is None else Phase.OPEN
        self.closing: Closing | None = None
        self._hub, self._wake, self._guard, self._on_refused = hub, wake, guard, on_refused
        self._peer, self._opening = peer, opening
        self._entries: dict[int, _Entry] = {}
        self._turns: list[int] = []
        self._outbox: list[str | Parts] = []  # an empty deque has 600 bytes, and nearly all are empty
        self._born_ns = self._told_ns = self._bucket_ns = now.mono_ns
        self._bucket = MESSAGES_BURST
        self._now = now
        if self.phase is Phase.OPEN:
            self._welcome()

    # ---- in --------------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes, now: Instant) -> None:
        """Take one message of the client.

        After calling this method: send what `next_message` gives, and look at `closing`.
        """
        self._now = now
        if self.phase is Phase.CLOSED:
            return
        for entry in self._entries.values():
            entry.subscription.part()
        if not self._within_rate(now):
            self._refuse_all(Code.POLICY, "rate_exceeded", f"at most {MESSAGES_PER_S:g} control messages a second")
            return
        if isinstance(message, bytes):
            self._refuse_all(Code.POLICY, "binary_refused", "clients send JSON text only")
            return
        try:
            fields = parse(message)
        except BadJsonError as error:
            self._refuse_all(Code.POLICY, "bad_json", error.reason)
            return
        self._obey(fields)

    def tick(self, now: Instant) -> bool:
        """Let time pass: positions, staleness, counts of what was dropped, the deadline for a token.

        Call it several times a second. After calling this method: as after `receive`. What is said now is where the
        client stands now: say it before anything else goes out.

        Returns:
            Whether there is something to send.
        """
        self._now = now
        if self.phase is Phase.WAITING and now.mono_ns - self._born_ns > AUTH_S * NS:
            self._on_refused("late", "ws auth")
            self._apply("late", None, {"code": Code.POLICY, "reason": "no token came in time"})
        self._end_the_expired(now)
        if self.phase is not Phase.OPEN or now.mono_ns - self._told_ns < HEARTBEAT_S * NS:
            return self.closing is not None
        self._told_ns = now.mono_ns
        for number, entry in list(self._entries.items()):
            self._report(number, entry, now)
        return bool(self._outbox) or self.closing is not None

    def drain(self, now: Instant, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        """The gateway goes away: say so, and when to come back, and close."""
        self._now = now
        if self.phase is not Phase.CLOSED:
            told = {"code": Code.RESTART, "reason": "gateway restarts", "retry_after_ms": retry_after_ms}
            self._apply("drain", None, told)

    # ---- out -------------------------------------------------------------------------------------------------------

    def next_message(self, now: Instant) -> str | bytes | None:
        """The next message to send: text is control, bytes are data; None when there is nothing for now."""
        message = self.next_parts(now)
        return b"".join(message) if isinstance(message, tuple) else message

    def next_parts(self, now: Instant) -> str | Parts | None:
        """The same, data as header and payload: joining them is left to whoever copies them anyway."""
        if self._outbox:
            return self._outbox.pop(0)
        for _ in range(len(self._turns) if self.phase is Phase.OPEN else 0):
            number = self._turns.pop(0)
            self._turns.append(number)
            message = self._pull(number, now)
            if message is not None:
                return message
        return None

    def next_due_ns(self) -> int:
        """Monotonic time at which a rate limit next lets something out; 0 if nothing waits for time."""
        running = (e.subscription.due_ns() for e in self._entries.values() if not e.ended)
        return min((due for due in running if due), default=0)

    def settle(self, wire: Any) -> None:
        """Nothing goes out for now: subscriptions that only wait for new rows let a cohort send them.

        Args:
            wire: the client's; everything that was written before is out.
        """
        if self.phase is Phase.OPEN:
            for entry in self._entries.values():
                if not entry.ended:
                    entry.subscription.join(wire)

    def rest(self) -> None:
        """Nothing can be sent for now: hold no more than places."""
        for entry in self._entries.values():
            entry.subscription.reading.rest()

    def release(self) -> None:
        """The connection is gone: let go of every channel."""
        self.phase = Phase.CLOSED
        for number in list(self._entries):
            self._forget(number)

    # ---- the machine -----------------------------------------------------------------------------------------------

    def _obey(self, fields: dict[str, Any]) -> None:
        op, number = fields.get("op"), fields.get("id")
        try:
            if not isinstance(op, str) or op not in CLIENT_OPS:
                raise Refusal("unknown_op", f"`op` is one of {', '.join(sorted(CLIENT_OPS))}")
            target = None if op in SESSION_WIDE else parse_id(fields)
            self._permit(op, fields)
            self._apply(op, target, fields)
        except Refusal as refusal:
            self._say_error(refusal, number if type(number) is int else None, op)

    def _apply(self, op: str, target: int | None, fields: Mapping[str, Any]) -> None:
        """Find the row of the table, do its action, then change state; a Refusal leaves everything as it was."""
        entry = self._entries.get(target) if target is not None else None
        track = entry.track if entry else Track.NONE
        rule = TABLE.get((self.phase, track, op))
        if rule is None:
            raise self._why_not(op, track)
        getattr(self, rule.action)(target, fields)
        if self.phase is not Phase.CLOSED:
            self.phase = rule.phase
        if target is not None and target in self._entries:
            self._entries[target].ended = rule.track is Track.ENDED
        self._wake()

    def _permit(self, op: str, fields: Mapping[str, Any]) -> None:
        """Refuse what the role may not do; a session without a token gets nowhere by the table.

        A clock with a name is a user's, and moving it takes what having it takes, also if the role became less since.
        """
        wanted = [f"ws {op}"]
        if op == "subscribe" and str(fields.get("from", "live")).startswith(("@", "bin/")):
            wanted.append("ws subscribe past")
        number = fields.get("id")
        entry = self._entries.get(number) if op != "subscribe" and type(number) is int else None
        moves_others = op in CLOCK_OPS and entry is not None and entry.subscription.clock.shared
        if "clock" in fields or moves_others:
            wanted.append("ws clock")
        if op == "subscribe" and fields.get("paused"):
            wanted.append("ws pause")
        owner = entry.subscription.clock.owner if moves_others and entry is not None else None
        for what in wanted:
            if self.principal is not None and not self.principal.may(what, owner):
                self._on_refused("forbidden", what)
                raise Refusal("forbidden", f"the role {self.principal.role.value} may not {what.removeprefix('ws ')}")

    def _why_not(self, op: str, track: Track) -> Refusal:
        if self.phase is Phase.WAITING:
            self._on_refused("unauthenticated", f"ws {op}")
            return Refusal("unauthenticated", "send `auth` with a token first")
        if op == "subscribe":
            return Refusal("duplicate_id", "this id is in use on this connection; unsubscribe it or take another")
        if track is Track.ENDED:
            return Refusal("ended", f"the tape ended here; `seek` before it to {op}")
        return Refusal("unknown_id", f"there is no subscription of this id to {op} ({track.value})")

    # ---- actions of the table --------------------------------------------------------------------------------------

    def _nothing(self, _target: int | None, _fields: Mapping[str, Any]) -> None:
        """The change of track is all."""

    def _check_token(self, _target: int | None, fields: Mapping[str, Any]) -> None:
        """A token, the first or one before the last ends; of another user it would have his subscriptions."""
        token = fields.get("token")
        if not isinstance(token, str):
            raise Refusal("bad_field", "give `token`, a text")
        if self._guard is None:
            return
        try:
            who = self._guard.admit(token, self._now.wall_ns)
            if ended := self._guard.ended(who, self._now.wall_ns):
                raise RefusedError(ended)
        except RefusedError as error:
            self._refuse_all(Code.TOKEN, error.code if error.code == "expired" else "bad_token", str(error), error.code)
            return
        if self.principal is not None and who.subject != self.principal.subject:
            self._on_refused("another_user", "ws auth")
            raise Refusal("another_user", "a session belongs to one user; open another one")
        self.principal = who

    def _admit(self, target: int | None, fields: Mapping[str, Any]) -> None:
        self._check_token(target, fields)
        if self.phase is Phase.WAITING and self.principal is not None:
            self.phase = Phase.OPEN
            self._welcome()

    def _user(self) -> str:
        """Whose clocks this session may share: those of the same user, or of the same machine without users."""
        who = self.principal
        return f"anonymous@{self._peer}" if who is None or who is LOCAL else who.subject

    def _subscribe(self, target: int | None, fields: Mapping[str, Any]) -> None:
        if len(self._entries) >= SUBSCRIPTIONS_MAX:
            raise Refusal("too_many", f"a connection carries at most {SUBSCRIPTIONS_MAX} subscriptions")
        request = parse_request(fields)
        subscription = self._hub.open(request, self._now, self._wake, self._user())
        subscription.channel.readers[subscription] = self._wake
        if isinstance(subscription.clock.listeners, set):
            subscription.clock.listeners.add(self._wake)
        self._entries[request.id] = _Entry(subscription)
        self._turns.append(request.id)
        self._say("subscribed", id=target, **subscription.describe())

    def _remove(self, target: int | None, _fields: Mapping[str, Any]) -> None:
        assert target is not None, "the table gives a track only to operations with an id"
        self._forget(target)

    def _pause(self, target: int | None, _fields: Mapping[str, Any]) -> None:
        self._of(target).pause(self._now)

    def _resume(self, target: int | None, _fields: Mapping[str, Any]) -> None:
        self._of(target).resume(self._now)

    def _step(self, target: int | None, fields: Mapping[str, Any]) -> None:
        self._of(target).step(parse_bins(fields), self._now)

    def _speed(self, target: int | None, fields: Mapping[str, Any]) -> None:
        self._of(target).set_speed(parse_speed(fields), self._now)

    def _seek(self, target: int | None, fields: Mapping[str, Any]) -> None:
        """Go elsewhere; what follows the answer is from there."""
        subscription = self._of(target)
        subscription.seek(parse_start(fields, "to"))
        self._say("subscribed", id=target, **subscription.describe())

    def _of(self, target: int | None) -> Subscription:
        assert target is not None, "the table gives a track only to operations with an id"
        return self._entries[target].subscription

    def _close(self, _target: int | None, fields: Mapping[str, Any]) -> None:
        self.phase = Phase.CLOSED
        self._outbox.clear()
        retry_after_ms = fields.get("retry_after_ms", RETRY_AFTER_MS)
        self._say("bye", code=fields["code"], reason=fields["reason"], retry_after_ms=retry_after_ms)
        self.closing = Closing(fields["code"], fields["reason"])
        for number in list(self._entries):
            self._forget(number)

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _pull(self, number: int, now: Instant) -> str | Parts | None:
        entry = self._entries.get(number)
        if entry is None:
            return None
        if entry.subscription.cohort is not None:
            return None
        if entry.ended:
            if not entry.subscription.turned:
                return None
            self._apply("turn", number, {})
        pulled = entry.subscription.pull(now, BACKLOG_BYTES_MAX // len(self._entries))
        for notice in pulled.notices:
            self._say(id=number, **notice)
        if self.phase is not Phase.OPEN:
            return self._outbox.pop(0)
        if pulled.failed is not None:
            self._fail(number, pulled.failed)
        elif pulled.ended:
            self._apply("end", number, {})
        if pulled.data is not None and self.phase is Phase.OPEN:
            self._outbox.append(pulled.data)
        return self._outbox.pop(0) if self._outbox else None

    def _fail(self, number: int, refusal: Refusal) -> None:
        """A subscription that cannot go on. Two reasons end the connection, since the client must start afresh."""
        code = FATAL.get(refusal.code)
        if code is not None:
            self._apply("refuse", None, {"code": code, "reason": refusal.message})
            return
        self._say_error(refusal, number)
        self._apply("fail", number, {})

    def _forget(self, number: int) -> None:
        entry = self._entries.pop(number)
        self._turns.remove(number)
        entry.subscription.leave()
        entry.subscription.channel.readers.pop(entry.subscription, None)
        clock = entry.subscription.clock
        others = (e.subscription.clock for e in self._entries.values())
        if isinstance(clock.listeners, set) and not any(c is clock for c in others):
            clock.listeners.discard(self._wake)

    def _report(self, number: int, entry: _Entry, now: Instant) -> None:
        """Each second: where the client stands, what was left out, and whether the source is silent."""
        subscription, channel = entry.subscription, entry.subscription.channel
        cohort = subscription.cohort
        if cohort is None or not cohort.sent_to(subscription):
            self._say("position", id=number, **subscription.position())
        else:
            text = cohort.positions.get(number)
            if text is None:
                text = cohort.positions[number] = _text("position", {"id": number, **subscription.position()})
            self._queue(text)
        if subscription.dropped:
            self._say("dropped", id=number, count=subscription.dropped)
            subscription.dropped = 0
        silent_ns = now.mono_ns - channel.heard_ns
        if silent_ns > STALE_S * NS and self._hub.may_be_stale(channel):
            self._say("stale", id=number, age_ms=silent_ns // 1_000_000)

    def _within_rate(self, now: Instant) -> bool:
        """Token bucket over control messages."""
        elapsed_s = (now.mono_ns - self._bucket_ns) / NS
        self._bucket = min(MESSAGES_BURST, self._bucket + elapsed_s * MESSAGES_PER_S)
        self._bucket_ns = now.mono_ns
        if self._bucket < 1:
            return False
        self._bucket -= 1
        return True

    def refuse(self, code: int, error: str, reason: str) -> None:
        """The shell has seen an offence: say so and close."""
        self._refuse_all(code, error, reason)

    def _end_the_expired(self, now: Instant) -> None:
        """A token that ended or was revoked ends its session, however busy."""
        if self.phase is Phase.OPEN and self._guard is not None and self.principal is not None:
            ended = self._guard.ended(self.principal, now.wall_ns)
            if ended:
                self._refuse_all(Code.TOKEN, ended, str(RefusedError(ended)))

    def _refuse_all(self, code: int, error: str, reason: str, cause: str = "") -> None:
        """An offence that ends the connection; `cause` is for the log where the client is told less."""
        if self.phase is not Phase.CLOSED:
            self._on_refused(cause or error, "ws")
            self._apply("refuse", None, {"code": code, "reason": f"{error}: {reason}"})

    def _welcome(self) -> None:
        """Say hello, and do by itself what the address asked for."""
        self._say_hello()
        for fields in self._opening:
            self._obey(dict(fields))

    def _say_hello(self) -> None:
        limits = {
            "message_bytes": TEXT_BYTES_MAX,
            "subscriptions": SUBSCRIPTIONS_MAX,
            "messages_per_s": MESSAGES_PER_S,
            "backlog_bytes": BACKLOG_BYTES_MAX,
        }
        who = self.principal
        self._say(
            "hello",
            protocol=PROTOCOL,
            version=1,
            **self._hub.hello(),
            limits=limits,
            may=sorted(op for op in PERMITTED if who is None or who.may(f"ws {op}")),
            heartbeat_s=HEARTBEAT_S,
        )

    def _say_error(self, refusal: Refusal, number: int | None, refused: object = None) -> None:
        extra: dict[str, Any] = {} if number is None else {"id": number}
        if isinstance(refused, str) and refused in CLIENT_OPS:
            extra["refused"] = refused
        self._say("error", code=refusal.code, message=refusal.message, **extra)

    def _say(self, op: str, **fields: Any) -> None:
        """Queue a control message. Nothing follows `bye`."""
        if self.phase is not Phase.CLOSED or op == "bye":
            self._queue(_text(op, fields), last=op == "bye")

    def _queue(self, text: str, *, last: bool = False) -> None:
        """A client that lets too many wait is closed."""
        if len(self._outbox) >= OUTBOX_MAX and not last:
            self._refuse_all(Code.SLOW, "slow", "control messages are not being read")
            return
        self._outbox.append(text)


def _text(op: str, fields: Mapping[str, Any]) -> str:
    return json.dumps({"op": op, **fields}, separators=(",", ":"))
