"""What a client asks for: one subscription, checked field by field before anything is looked up."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, cast

from schemas.names import Cursor, is_name, parse_cursor
from ws_gateway.catalogue import GRID, names
from ws_gateway.catalogue import stream as stream_of
from ws_gateway.frames import DTYPES, Dtype

Policy = Literal["conflate", "lossless"]
POLICIES: Final = ("conflate", "lossless")

MAIN: Final = "main"
"""Line of a subscription that names none."""

ID_MAX: Final = (1 << 32) - 1
FIELDS_MAX: Final = 64
"""Fields of one subscription: more than any stream has, so only nonsense is refused."""

INSTRUMENT_CHARS_MAX: Final = 120
RATE_MAX_HZ: Final = 1_000.0
"""Highest rate worth asking for; without a limit every row is sent."""

KEYS: Final = frozenset(
    {"op", "id", "stream", "tape", "line", "instrument", "fields", "radius", "dtype", "max_rate_hz", "policy"}
    | {"from", "clock", "paused", "digest"}
)

SPEED_MAX: Final = 100_000.0
"""Fastest pace that is worth a clock; beyond it `max` is meant."""

STEP_MAX: Final = 10_000
"""Bins of one step; more is a replay."""


class Refusal(Exception):  # noqa: N818  (an answer to a client, not a fault of the program)
    """The gateway says no to one operation; the connection goes on.

    Attributes:
        code: short and stable, for programs.
        message: one sentence with the remedy, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins: `live`, after a `cursor`, at a bin, or at an event time (ns)."""

    kind: Literal["live", "cursor", "bin", "time"] = "live"
    cursor: Cursor | None = None
    value: int = 0

    def __str__(self) -> str:
        """As clients write it."""
        return {"live": "live", "cursor": str(self.cursor), "bin": f"bin/{self.value}"}.get(self.kind, f"@{self.value}")


@dataclass(frozen=True, slots=True)
class Request:
    """One subscription as asked for; see the protocol's `subscribe`.

    Attributes:
        radius: None asks for the line's own.
        max_rate_hz: None asks for every row.
        policy: what happens to a reader that is too slow for what is live.
        clock: name of the replay clock that it shares; None: its own.
        paused: whether a clock that this subscription makes stands still at first; one that goes already is left alone.
        digest: whether digests are sent.
    """

    id: int
    stream: str
    tape: str
    line: str
    instrument: str
    fields: tuple[str, ...]
    radius: int | None = None
    dtype: Dtype = "f32"
    max_rate_hz: float | None = None
    policy: Policy = "conflate"
    start: Start = Start()
    clock: str | None = None
    paused: bool = False
    digest: bool = False


def parse_id(message: Mapping[str, Any]) -> int:
    """The subscription id of a message.

    Raises:
        Refusal: missing, or no integer of 32 bits.
    """
    value = message.get("id")
    if type(value) is not int or not 0 <= value <= ID_MAX:
        raise Refusal("bad_id", "give `id`, an integer from 0 to 4294967295")
    return value


def parse_request(message: Mapping[str, Any]) -> Request:
    """The subscription that a `subscribe` message asks for.

    Raises:
        Refusal: a field is missing, unknown, of the wrong type or out of range.
    """
    for key in message:
        if key not in KEYS:
            raise Refusal("bad_field", f"`{_short(key)}` is unknown")
    stream = _one_of(message, "stream", GRID, names())
    return Request(
        id=parse_id(message),
        stream=stream,
        tape=_name(message, "tape", "live"),
        line=_name(message, "line", MAIN),
        instrument=_instrument(message),
        fields=_fields(message, stream),
        radius=_radius(message, stream),
        dtype=cast("Dtype", _one_of(message, "dtype", "f32", tuple(DTYPES))),
        max_rate_hz=_rate(message),
        policy=cast("Policy", _one_of(message, "policy", "conflate", POLICIES)),
        start=parse_start(message, "from", "live"),
        clock=_name(message, "clock", "") if "clock" in message else None,
        paused=_flag(message, "paused"),
        digest=_flag(message, "digest"),
    )


def parse_speed(message: Mapping[str, Any]) -> float | None:
    """The pace that a `speed` message asks for: event seconds per second; None for as fast as it goes.

    Raises:
        Refusal: neither a number in range nor "max".
    """
    value: Any = message.get("factor")
    if value == "max":
        return None
    if type(value) not in (int, float) or not 0.001 <= value <= SPEED_MAX:
        raise Refusal("bad_field", f"`factor` is a number from 0.001 to {SPEED_MAX:g}, or max")
    return float(value)


def parse_bins(message: Mapping[str, Any]) -> int:
    """How many bins a `step` message asks for; 1 if it does not say.

    Raises:
        Refusal: no integer in range.
    """
    value = message.get("bins", 1)
    if type(value) is not int or not 1 <= value <= STEP_MAX:
        raise Refusal("bad_field", f"`bins` is an integer from 1 to {STEP_MAX}")
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _one_of(message: Mapping[str, Any], key: str, default: str, choices: tuple[str, ...]) -> str:
    value = message.get(key, default)
    if value not in choices:
        raise Refusal("bad_field", f"`{key}` is one of {', '.join(choices)}, not {_short(value)!r}")
    return str(value)


def _name(message: Mapping[str, Any], key: str, default: str) -> str:
    value = message.get(key, default)
    if not isinstance(value, str) or not is_name(value):
        raise Refusal("bad_field", f"`{key}` is up to 40 of a-z, 0-9 and '-'")
    return sys.intern(value)  # a thousand clients name the same


def _instrument(message: Mapping[str, Any]) -> str:
    value = message.get("instrument")
    if not isinstance(value, str) or not 0 < len(value) <= INSTRUMENT_CHARS_MAX:
        raise Refusal("bad_field", "give `instrument`, as listed in hello")
    return sys.intern(value)


def _fields(message: Mapping[str, Any], stream: str) -> tuple[str, ...]:
    value = message.get("fields")
    if value is None:
        return stream_of(stream).defaults
    if not isinstance(value, list) or not 0 < len(value) <= FIELDS_MAX or not all(isinstance(n, str) for n in value):
        raise Refusal("bad_field", f"`fields` is a list of 1 to {FIELDS_MAX} names")
    for name in value:
        if name not in stream_of(stream).fields:
            raise Refusal("unknown_field", f"stream {stream} has no field {_short(name)!r}")
    if len(set(value)) != len(value):
        raise Refusal("bad_field", "`fields` names a field twice")
    return _same(tuple(map(sys.intern, value)))


@lru_cache(maxsize=256)
def _same(names: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all who ask for the same fields."""
    return names


def _radius(message: Mapping[str, Any], stream: str) -> int | None:
    value = message.get("radius")
    if value is None:
        return None
    if stream != GRID or type(value) is not int or not 1 <= value <= 4096:
        raise Refusal("bad_field", "`radius` is an integer from 1 to the line's radius, and only for stream grid")
    return value


def _rate(message: Mapping[str, Any]) -> float | None:
    value = message.get("max_rate_hz")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0.01 <= value <= RATE_MAX_HZ:
        raise Refusal(
            "bad_field", f"`max_rate_hz` is a number from 0.01 to {RATE_MAX_HZ:g}; leave it out for every row"
        )
    return float(value)


def _flag(message: Mapping[str, Any], key: str) -> bool:
    value = message.get(key, False)
    if not isinstance(value, bool):
        raise Refusal("bad_field", f"`{key}` is true or false")
    return value


_BIN = re.compile(r"bin/([0-9]{1,18})")
_TIME = re.compile(r"@([0-9]{1,19})")


def parse_start(message: Mapping[str, Any], key: str, default: str = "") -> Start:
    """The place that a field names.

    Args:
        message: the client's.
        key: `from` of a subscription, `to` of a seek.
        default: what stands for a field that is not there.

    Raises:
        Refusal: it names none.
    """
    value = message.get(key, default)
    wrong = Refusal("bad_field", f"`{key}` is live, a cursor, bin/N or @ns since the epoch")
    if value == "live":
        return Start()
    if not isinstance(value, str) or len(value) > 400:
        raise wrong
    for pattern, kind in ((_BIN, "bin"), (_TIME, "time")):
        if found := pattern.fullmatch(value):
            return Start(cast("Any", kind), value=_within(found[1], wrong))
    try:
        cursor = parse_cursor(value)
    except ValueError:
        raise wrong from None
    for number in (cursor.seq, cursor.part, cursor.row):
        _within(str(number), wrong)
    return Start("cursor", cursor=cursor)


def _within(digits: str, wrong: Refusal) -> int:
    """A number that fits 63 bits."""
    number = int(digits)
    if number >= 1 << 63:
        raise wrong
    return number
