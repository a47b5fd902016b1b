"""When a token must be renewed: what a client needs to know of a JWT (RFC 7519), and no more.

The client cannot judge a token and does not try; it only reads when it ends, to present the next one before.
"""

import base64
import binascii
import json
from typing import Final

EARLY_S: Final = 30.0
"""How long before its end a token is renewed: the clocks of two machines, and a slow network."""

SOON_S: Final = 1.0
"""Shortest pause between two renewals, for tokens that live shorter than `EARLY_S`."""

LATER_S: Final = 300.0
"""How often a token that does not say when it ends is asked for again."""


def refresh_in_s(token: str, now_s: float) -> float:
    """Seconds from now until a token should be renewed.

    Args:
        token: as presented; anything but a JWT with `exp` is one that does not tell.
        now_s: wall clock, s since the epoch.
    """
    try:
        body = token.split(".")[1]
        ends_s = float(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return LATER_S
    return max(SOON_S, min(LATER_S, ends_s - now_s - EARLY_S))
