"""Control messages are JSON from strangers: limits come before parsing, and nothing ambiguous is let through.

The standard parser accepts NaN, Infinity and duplicate keys (the last one wins) and recurses as deep as the text asks.
Each of these has been a way into some server; here they are refused by name.
"""

import json
from typing import Any, Final, NoReturn

DEPTH_MAX: Final = 4
"""Nesting of a control message. The deepest one the protocol defines has 2 levels (an object with a list)."""

TEXT_BYTES_MAX: Final = 8_192
"""Size of a control message. The largest sensible one (a subscribe with every field) has about 1 KiB."""


class BadJsonError(ValueError):
    """The text is no acceptable control message; `reason` says why, in words for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def depth(text: str) -> int:
    """Deepest nesting of brackets outside strings, in one pass and without recursion."""
    level = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise BadJsonError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise BadJsonError("a key appears twice")
    return out


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadJsonError("a number is out of range")
    return value


def _small(text: str) -> int:
    if len(text) > 20:
        raise BadJsonError("a number is out of range")
    return int(text)


def parse(text: str) -> dict[str, Any]:
    """The JSON object that `text` holds.

    Raises:
        BadJsonError: too large, too deep, no JSON object, NaN or Infinity, numbers beyond 64 bits, duplicate keys.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise BadJsonError(f"a control message has at most {TEXT_BYTES_MAX} characters")
    if depth(text) > DEPTH_MAX:
        raise BadJsonError(f"a control message nests at most {DEPTH_MAX} deep")
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_unique, parse_float=_finite, parse_int=_small
        )
    except BadJsonError:
        raise
    except ValueError:
        raise BadJsonError("the text is not JSON") from None
    if not isinstance(value, dict):
        raise BadJsonError("a control message is a JSON object")
    return value
