"""Who is asking: the judgement of tokens and keys, shared by gateway and api.

    authority = open_authority(settings)          # None: authentication is off, everybody is LOCAL
    who = authority.admit(token, now_ns)          # a Principal, or a RefusedError before any work is done
    authority.ended(who, now_ns)                  # why a session of his must end now; empty while it may go on

The judgement is pure but for what it knows: the key ring and the JWKS file, which a thread rereads every `REREAD_S`. A
revocation is thus seen within seconds. If they cannot be read for `KNOWN_S_MAX` nobody is admitted any more and
sessions end, since nobody can tell who was revoked meanwhile.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from runtime.auth_keys import Key, KeyStore, Ring, split
from runtime.auth_rules import Role, may
from runtime.auth_tokens import Keys, TokenError, TokenRules, judge, keys_from_json
from runtime.errors import BarographError, InputError, UsageError
from runtime.object_store import object_store_at
from runtime.settings import Settings

log = logging.getLogger(__name__)

TOKEN_CHARS_MAX: Final = 4_096
"""Longest token that is looked at. Those of identity providers have one or two thousand characters."""

REREAD_S: Final = 5.0
"""How often keys are reread. A revocation must be effective within 30 s; in a bucket each look is one request."""

KNOWN_S_MAX: Final = 30.0
"""Age of what is known of keys beyond which it does not count."""

REMEMBERED: Final = 1_024
"""Keys whose hash was found right and is not computed again; each takes a hundred bytes."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was admitted.

    Attributes:
        subject: the user: whose clocks and limits count.
        role: what he may do.
        kind: what vouches for him: a static `key`, a `token`, or that he is on this machine (`local`).
        key: id of the key, or of the key that signed the token.
        token: the token's own id, empty if it has none.
        expires_ns: when what he showed ends, ns since the epoch; None: never.
    """

    subject: str
    role: Role
    kind: Literal["key", "token", "local"]
    key: str = ""
    token: str = ""
    expires_ns: int | None = None

    def may(self, what: str, owner: str | None = None) -> bool:
        """Whether he may do something of `runtime.auth_rules`, to a thing of an owner."""
        return may(self.role, self.subject, what, owner)


LOCAL: Final = Principal("local", Role.ADMIN, "local")
"""Everybody where authentication is off: gateway and api are then reached from this machine only."""


class RefusedError(BarographError):
    """A token that is not accepted.

    Attributes:
        code: why, short and stable; for logs and counters.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        message, remedy = _WORDS.get(code, _WORDS[""])
        super().__init__(message, remedy=remedy)


_WORDS: Final = {
    "": ("the token was not accepted", "ask whoever runs this for a good one"),
    "absent": ("a token is needed", "send it as `Authorization: Bearer TOKEN`"),
    "expired": ("the token has expired", "get a new one"),
    "revoked": ("the token was revoked", "ask whoever runs this for a new one"),
    "role": ("the token names no role", "ask its issuer for the role viewer, trader or admin"),
    "unknown": ("tokens cannot be checked at the moment", "try again in a minute"),
}
"""What the caller is told. Why a forged token failed is nobody's business but the log's."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What keys there are, as last read."""

    ring: Ring
    jwks: Keys
    read_at_s: float


class Authority:
    """Judges tokens.

    Args:
        read_ring: gives the static keys and revocations.
        read_jwks: gives the keys of token issuers.
        rules: what is asked of their tokens; None: static keys alone are accepted.
        static: whether static keys are accepted.
        monotonic_s: the clock by which the age of what is known is told.
    """

    def __init__(
        self,
        read_ring: Callable[[], Ring],
        read_jwks: Callable[[], Keys] = dict,
        rules: TokenRules | None = None,
        *,
        static: bool = True,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_ring, self._read_jwks, self._rules, self._static = read_ring, read_jwks, rules, static
        self._monotonic_s = monotonic_s
        self._pepper = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, str] = OrderedDict()
        self._stop = threading.Event()
        self._known = self._read()

    def admit(self, token: str, now_ns: int) -> Principal:
        """Whoever shows this token.

        Args:
            token: what he shows; of any content.
            now_ns: the time, ns since the epoch.

        Raises:
            RefusedError: it is not accepted; the code says why.
        """
        known = self._fresh()
        if not token or len(token) > TOKEN_CHARS_MAX or not token.isascii():
            raise RefusedError("absent" if not token else "malformed")
        parts = split(token)
        if parts is not None:
            return self._admit_key(*parts, known.ring, now_ns)
        if self._rules is None:
            raise RefusedError("malformed")
        try:
            claims = judge(token, known.jwks, self._rules, now_ns)
        except TokenError as error:
            raise RefusedError(error.code) from None
        if claims.token and claims.token in known.ring.tokens:
            raise RefusedError("revoked")
        return Principal(claims.subject, claims.role, "token", claims.key, claims.token, claims.expires_ns)

    def ended(self, who: Principal, now_ns: int) -> str:
        """Why somebody who was admitted is so no longer; empty while he is. There is no leeway here."""
        if who.kind == "local":
            return ""
        known = self._known
        if self._monotonic_s() - known.read_at_s > KNOWN_S_MAX:
            return "unknown"
        if who.expires_ns is not None and now_ns >= who.expires_ns:
            return "expired"
        if who.kind == "token":
            listed = bool(who.token) and who.token in known.ring.tokens
            return "revoked" if listed or who.key not in known.jwks else ""
        key = known.ring.find(who.key)
        return "revoked" if key is None or key.revoked_ns is not None else ""

    def refresh(self) -> None:
        """Read the keys again; what was known stays if they cannot be read now."""
        try:
            self._known = self._read()
        except (BarographError, OSError) as error:
            log.warning("keys cannot be read, the old ones count for %.0f s at most: %s", KNOWN_S_MAX, error)

    def start(self) -> None:
        """Reread from a thread, until `close`."""
        threading.Thread(target=self._keep_fresh, name="auth", daemon=True).start()

    def close(self) -> None:
        """Stop rereading."""
        self._stop.set()

    def _keep_fresh(self) -> None:
        while not self._stop.wait(REREAD_S):
            self.refresh()

    def _read(self) -> _Known:
        now_s = self._monotonic_s()
        return _Known(self._read_ring(), self._read_jwks(), now_s)

    def _fresh(self) -> _Known:
        known = self._known
        if self._monotonic_s() - known.read_at_s > KNOWN_S_MAX:
            raise RefusedError("unknown")
        return known

    def _admit_key(self, key_id: str, secret: str, ring: Ring, now_ns: int) -> Principal:
        key = ring.find(key_id) if self._static else None
        if key is None:
            raise RefusedError("unknown_key")
        if not self._fits(key, secret):
            raise RefusedError("forged")
        if key.revoked_ns is not None:
            raise RefusedError("revoked")
        if key.expires_ns is not None and now_ns >= key.expires_ns:
            raise RefusedError("expired")
        return Principal(key.name, Role(key.role), "key", key.id, "", key.expires_ns)

    def _fits(self, key: Key, secret: str) -> bool:
        """Whether the secret is the key's; hashed once, and after that told by a digest that only we can make."""
        digest = hmac.digest(self._pepper, f"{key.id}_{secret}".encode(), hashlib.sha256)
        if self._right.get(digest) == key.hash:
            return True
        if not key.fits(secret):
            return False
        self._right[digest] = key.hash
        while len(self._right) > REMEMBERED:
            self._right.popitem(last=False)
        return True


def open_authority(settings: Settings) -> Authority | None:
    """The authority that the settings ask for; None if authentication is off.

    Raises:
        InputError: keys cannot be read.
        UsageError: tokens are to be accepted, and no file of keys is given.
    """
    if settings.auth == "none":
        return None
    tokens = settings.auth in ("jwt", "both")
    if tokens and not settings.auth_jwks:
        raise UsageError(
            "tokens are to be accepted, but by whose keys?", remedy="set BAROGRAPH_AUTH_JWKS to a JWKS file"
        )
    path = Path(settings.auth_jwks)

    def read_jwks() -> Keys:
        try:
            return keys_from_json(path.read_bytes(), str(path)) if tokens else {}
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})", remedy="give another JWKS file") from error

    rules = TokenRules(
        settings.auth_audience,
        settings.auth_issuer,
        settings.auth_algorithms.split(","),
        settings.auth_leeway_s,
        settings.auth_role_claim,
    )
    ring = KeyStore(object_store_at(settings.state_location))
    return Authority(ring.read, read_jwks, rules if tokens else None, static=settings.auth in ("keys", "both"))
