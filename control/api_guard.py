"""What stands before the api: origin, token, role, limits and size, judged before anything of a request is used.

    1. Which route is it? What has no rule in `runtime.auth_rules` is refused, whoever asks.
    2. Does a page of ours ask, or none? A browser names the page (`Origin`, `Sec-Fetch-Site`) and the host it called.
       Without authentication a foreign host name is DNS rebinding: some site's name that leads to this machine.
    3. Who asks, and may he? `Authorization: Bearer`, and never a cookie, so no page can ask in a user's name.
    4. Does he ask too often, or send too much? The body is read here, bounded in size and time.

Every answer gets the security headers, also refusals. Pure ASGI, because wrappers of requests would hold streams back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control.api_errors import ApiError
from runtime.auth import LOCAL, Authority, Principal, RefusedError
from runtime.auth_limits import Kind, Limiter, note_refusal
from runtime.auth_rules import RULES

BODY_BYTES_MAX: Final = 256 << 10
"""Largest body. A query of ClickHouse has 256 KiB at most, the schemas asked for a few KiB."""

BODY_S: Final = 10.0
"""Time for a body to come. A slow one holds a connection and its buffer."""

OWN_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""How this machine is called by programs on it."""

_LIMITED: Final[dict[str, Kind]] = {"POST /v1/sql": "sql"}
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Trust:
    """Who may ask.

    Attributes:
        authority: judge of tokens; None: authentication is off, and everybody on this machine may.
        names: host names that lead here besides those of the machine itself.
    """

    authority: Authority | None = None
    names: frozenset[str] = frozenset()


class Guard:
    """The application behind its guard.

    Args:
        app: the application.
        routes: its routes; what none of them takes is a file of the console.
        trust: who may ask.
        headers: gives the headers of every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[APIRoute],
        trust: Trust,
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._app, self._routes, self._trust, self._headers = app, routes, trust, headers
        self._limiter = Limiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers())
                headers.setdefault("Cache-Control", "no-cache")  # files of a new release must not meet old ones
            await send(message)

        address = str((scope.get("client") or ("",))[0])
        try:
            scope.setdefault("state", {})["principal"] = self._admit(scope, Headers(scope=scope), address)
            replay = await _body(Headers(scope=scope), receive)
        except ApiError as error:
            self._note(error, address)
            await error.response()(scope, receive, hardened)
            return
        await self._app(scope, replay, hardened)

    def _admit(self, scope: Scope, headers: Headers, address: str) -> Principal | None:
        """Who asks; None for somebody without a token who wants what everybody may have.

        Raises:
            ApiError: he may not.
        """
        what = name_of(self._routes, scope["method"], scope["path"])
        rule = RULES[what]
        check_origin(headers, public=rule.public, names=self._names())
        if rule.public:
            return None
        who = self._who(headers, address)
        if not who.may(what):
            raise ApiError(403, "forbidden", f"the role {who.role.value} may not do this", "ask for another role")
        for kind in ("requests", _LIMITED.get(what)):
            if kind is not None and who is not LOCAL and not self._limiter.take(kind, who.subject):
                raise ApiError(429, "rate_exceeded", "too many requests of this user", "wait a minute")
        return who

    def _names(self) -> frozenset[str] | None:
        return None if self._trust.authority is not None else OWN_NAMES | self._trust.names

    def _who(self, headers: Headers, address: str) -> Principal:
        authority = self._trust.authority
        if authority is None:
            return LOCAL
        if not self._limiter.left("failures", address):
            raise ApiError(429, "failures", "too many refusals of this address", "wait a minute")
        given = headers.getlist("authorization")
        token = given[0][len(_BEARER) :].strip() if given and given[0].lower().startswith(_BEARER) else ""
        try:
            return authority.admit(token if len(given) == 1 else "", time.time_ns())
        except RefusedError as error:
            raise _UnknownError(error) from None

    def _note(self, error: ApiError, address: str) -> None:
        if self._trust.authority is not None and error.status in (401, 403):
            self._limiter.take("failures", address)
        note_refusal(self._limiter, "api", error.reason if isinstance(error, _UnknownError) else error.code, address)


class _UnknownError(ApiError):
    """Somebody whose token is not accepted; why is for the log."""

    def __init__(self, error: RefusedError) -> None:
        self.reason = error.code
        super().__init__(401, "unauthenticated", error.message, error.remedy)


def name_of(routes: Sequence[APIRoute], method: str, path: str) -> str:
    """The name of a request in the table of rules.

    Raises:
        ApiError: nobody may do that: no route takes the method, or no rule stands for it.
    """
    matching = [route for route in routes if route.path_regex.match(path)]
    named = next((f"{method} {route.path}" for route in matching if method in (route.methods or ())), "")
    if not matching and method in ("GET", "HEAD"):
        named = "GET /"
    if not named:
        raise ApiError(405, "wrong_method", f"{method} is not for {path[:80]}", "see /v1/openapi.json")
    if named not in RULES:
        raise ApiError(403, "forbidden", f"nobody may do {named}")
    return named


def check_origin(headers: Headers, *, public: bool, names: frozenset[str] | None) -> None:
    """Let through what no page of another site sends.

    Args:
        headers: of the request.
        public: whether it asks for what everybody may have: links to the console may stand anywhere.
        names: host names by which we may be called; None: any.

    Raises:
        ApiError: a page of another site sends it, or it calls us by a foreign name.
    """
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if names is not None and name not in names:
        raise ApiError(403, "host", "this api is not known by that name", "call it as 127.0.0.1 or localhost")
    foreign = any(urlsplit(origin).netloc.lower() != host.lower() for origin in headers.getlist("origin"))
    crossing = not public and headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if foreign or crossing:
        raise ApiError(403, "origin", "pages of other sites may not use this api")


async def _body(headers: Headers, receive: Receive) -> Receive:
    """The body, read whole within its bounds; what gives it to the application again.

    Raises:
        ApiError: it is too large, or comes too slowly.
    """
    if not headers.get("content-length", "0").isdecimal() or int(headers.get("content-length", "0")) > BODY_BYTES_MAX:
        raise _too_large()
    pieces, size, more = [], 0, "content-length" in headers or "transfer-encoding" in headers
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    break
                pieces.append(message.get("body", b""))
                size, more = size + len(pieces[-1]), message.get("more_body", False)
                if size > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, "too_slow", "the body did not come in time", f"send it within {BODY_S:g} s") from None
    whole: list[dict[str, Any]] = [{"type": "http.request", "body": b"".join(pieces), "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"the body is longer than {BODY_BYTES_MAX} bytes", "send less")
