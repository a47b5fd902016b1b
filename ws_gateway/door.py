"""Who comes in: the judgement of an opening request, before anything of it is used.

    Origin            on the allow-list, or 403: any site's page may try, and browsers always name the page
    no Origin         a program: it shows a token in `Authorization`, or 401, where authentication is on
    an allowed page   may show its token there too; browsers cannot, so it may come as the first message
    a token's place   a header or a message. An address is written down by every proxy, so one with a token is refused

An address that was refused often is refused for a while without a look (429). A user has so many sockets and no more.
No input or output here: `knock` gets what the request said.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from runtime.auth import LOCAL, Authority, Principal, RefusedError
from runtime.auth_limits import Limiter, note_refusal

SOCKETS_MAX: Final = 64
"""Sockets of one user, where users are told apart. A person has some tabs and notebooks open; each socket may hold
4 MiB for a slow reader."""

WAITING_MAX: Final = 1_024
"""Sockets that have shown no token yet. They hold some 30 KiB each, and no longer than protocol.AUTH_S."""

BEARER: Final = "bearer "
_TOKEN_NAMES: Final = frozenset({"token", "access_token", "authorization", "key", "api_key", "apikey"})


@dataclass(frozen=True, slots=True)
class Knock:
    """An opening request, as far as it matters here.

    Attributes:
        address: of the client, without its port.
        origins: values of all `Origin` headers.
        authorizations: values of all `Authorization` headers.
        query: of the address.
    """

    address: str
    origins: tuple[str, ...] = ()
    authorizations: tuple[str, ...] = ()
    query: str = ""


class TurnedAwayError(Exception):
    """The request is refused.

    Attributes:
        status: of the answer.
        reason: short and stable, for logs.
        text: for the client.
    """

    def __init__(self, status: HTTPStatus, reason: str, text: str) -> None:
        self.status, self.reason, self.text = status, reason, text
        super().__init__(reason)


class Door:
    """Judges opening requests, and counts who is inside.

    Args:
        origins: web origins whose pages may connect.
        authority: judge of tokens; None: authentication is off.
        limiter: counts per client.
        wall_ns: the time, ns since the epoch.
    """

    def __init__(
        self,
        origins: Collection[str] = (),
        authority: Authority | None = None,
        limiter: Limiter | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.authority, self.limiter = authority, limiter or Limiter()
        self._origins, self._wall_ns = frozenset(origins), wall_ns
        self._inside: Counter[str] = Counter()

    def knock(self, request: Knock) -> Principal | None:
        """Who asks to come in; None for somebody who has yet to show a token.

        Raises:
            TurnedAwayError: he may not.
        """
        try:
            return self._judge(request)
        except TurnedAwayError as away:
            self.note(away.reason, request.address)
            raise

    def ask(self, request: Knock, what: str) -> None:
        """Let a plain request pass, by its name in `runtime.auth_rules`.

        Raises:
            TurnedAwayError: it may not.
        """
        try:
            if self.authority is None:
                return
            self._refuse_the_often_refused(request)
            if not self._shown(request).may(what):
                raise TurnedAwayError(HTTPStatus.FORBIDDEN, "forbidden", "your role may not do this\n")
        except TurnedAwayError as away:
            self.note(away.reason, request.address)
            raise

    def note(self, reason: str, address: str, **known: str) -> None:
        """Write a refusal down, and count it against the address."""
        if self.authority is not None:
            self.limiter.take("failures", address)
        note_refusal(self.limiter, "gateway", reason, address, **known)

    def enter(self, who: Principal | None) -> None:
        """Somebody is inside; `leave` follows."""
        self._inside[who.subject if who else ""] += 1

    def leave(self, who: Principal | None) -> None:
        """Somebody is gone."""
        name = who.subject if who else ""
        self._inside[name] -= 1
        if self._inside[name] <= 0:
            del self._inside[name]

    def full(self, who: Principal | None) -> bool:
        """Whether there is no room for one more of his sockets."""
        if self.authority is None:
            return False
        return self._inside[who.subject] >= SOCKETS_MAX if who else self._inside[""] >= WAITING_MAX

    def _judge(self, request: Knock) -> Principal | None:
        if len(request.origins) > 1 or any(origin not in self._origins for origin in request.origins):
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, "origin", "pages of this origin may not connect\n")
        if any(name.lower() in _TOKEN_NAMES for name, _ in parse_qsl(request.query, keep_blank_values=True)):
            text = "never put a token into an address; send it as a header, or as the first message\n"
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "token_in_address", text)
        if self.authority is None:
            return LOCAL
        self._refuse_the_often_refused(request)
        who = None if request.origins and not request.authorizations else self._shown(request)
        if self.full(who):
            raise TurnedAwayError(HTTPStatus.TOO_MANY_REQUESTS, "sockets", "too many connections; close some\n")
        return who

    def _refuse_the_often_refused(self, request: Knock) -> None:
        if not self.limiter.left("failures", request.address):
            raise TurnedAwayError(HTTPStatus.TOO_MANY_REQUESTS, "failures", "too many refusals; wait a minute\n")

    def _shown(self, request: Knock) -> Principal:
        """Who shows the token of the header."""
        assert self.authority is not None, "asked only where authentication is on"
        given = request.authorizations
        token = given[0][len(BEARER) :].strip() if given and given[0].lower().startswith(BEARER) else ""
        try:
            return self.authority.admit(token if len(given) == 1 else "", self._wall_ns())
        except RefusedError as error:
            raise TurnedAwayError(HTTPStatus.UNAUTHORIZED, error.code, f"{error}\n") from None
