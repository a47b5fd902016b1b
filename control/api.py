"""The api process: the console's files, what exists, where a cursor leads, SQL, status, schemas.

    GET  /v1/config         where the gateway is, what tapes exist
    GET  /v1/tapes[/TAPE]   tapes and aliases; lines, instruments and sources of one
    GET  /v1/cursor         a cursor or a time to its row
    GET  /v1/serving[/NAME] published serving versions and their aliases
    POST /v1/sql            a SELECT, read-only and within limits
    GET  /v1/status         what answers, how far each consumer is behind, what is missing
    GET  /v1/schema         the gateway's protocol and the topics, AsyncAPI; /v1/openapi.json: this api

The browser has one origin, this one; it learns the gateway's address from `/v1/config` and may connect nowhere else,
because the content security policy names just the two. There is no CORS: no other origin has any business here.
Beside that it is a read-only schema registry (`control.registry`) for consumers of the topics. `control.api_guard`
stands before all of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from control import api_errors, registry
from control.api_errors import NO_STORE, ApiError
from control.api_guard import Guard, Trust
from runtime.endpoints import Endpoints
from runtime.errors import InputError
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from schemas.names import Cursor, is_name, parse_cursor

DEFAULTS: Final[Mapping[str, Any]] = {"stream": "grid", "line": "main", "dtype": "f32"}
"""What the console subscribes to unless its address says otherwise."""

REPOSITORY: Final = Path(__file__).resolve().parents[1]


class Published(Protocol):
    """A serving version, as far as the api shows it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def note(self) -> str:
        """What it is, for people."""

    @property
    def subscriptions(self) -> Sequence[Mapping[str, Any]]:
        """What it subscribes to, in order."""


class Serving(Protocol):
    """The registry of serving versions, as far as the api reads it."""

    def versions(self) -> list[str]:
        """Ids of all versions."""

    def aliases(self) -> dict[str, str]:
        """Every alias, and the id of the version it names."""

    def resolve(self, name: str) -> Published | None:
        """The version of an id or alias; None if there is none."""


def console_dir() -> Path:
    """Folder of the console's files: beside the packages in a checkout, inside `control` in an installed wheel.

    Raises:
        InputError: neither is there.
    """
    for folder in (Path(str(resources.files("control"))) / "console", REPOSITORY / "console"):
        if (folder / "index.html").is_file():
            return folder
    raise InputError(
        "the console's files are not installed", remedy="install barograph again, from its wheel or checkout"
    )


def create_app(
    *,
    gateway_url: Callable[[], str | None],
    state: str | Path,
    console: Path | None = None,
    settings: Settings | None = None,
    trust: Trust | None = None,
    serving: Serving | None = None,
) -> FastAPI:
    """The application.

    Args:
        gateway_url: gives the gateway's address, `ws://host:port/v1/stream`, or None while it is not known.
        state: where the tape manifests lie: a folder or a URL.
        console: folder of the console's files; found by itself if not given.
        settings: where broker, store and lake are; those of the environment if not given.
        trust: who may ask; everybody on this machine if not given.
        serving: registry of serving versions; without one there are none.
    """
    app = FastAPI(title="barograph", docs_url=None, redoc_url=None, openapi_url=None)
    tapes, known = TapeStore(object_store_at(state)), settings or Settings()
    api_errors.install(app)
    router = APIRouter()
    _add_lists(router, gateway_url, tapes)
    _add_serving(router, serving)
    _add_questions(router, tapes, known)
    _add_documents(router, app)
    app.include_router(router)
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    routes += registry.install(
        app, lambda: [(m.tape, n) for m in map(tapes.require, tapes.names()) for n in m.lines or ["main"]]
    )
    app.mount("/", StaticFiles(directory=console or console_dir(), html=True), name="console")
    app.add_middleware(Guard, routes=routes, trust=trust or Trust(), headers=lambda: security_headers(gateway_url()))
    app.state.routes = routes
    return app


def security_headers(gateway_url: str | None) -> dict[str, str]:
    """Headers of every answer: scripts, styles and fonts from here only, sockets to the gateway only, no frames.

    A page that was opened before the gateway told its address must be able to reach it later, without a reload; until
    the address is known, sockets to this machine are allowed.
    """
    gateway = gateway_url.partition("/v1/")[0] if gateway_url else "ws://127.0.0.1:* ws://localhost:*"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {gateway}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }


def _add_lists(router: APIRouter, gateway_url: Callable[[], str | None], tapes: TapeStore) -> None:
    @router.get("/health")
    def health() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @router.get("/v1/config")
    def config() -> JSONResponse:
        """Where the gateway is, and what tapes, lines and instruments exist now."""
        manifests = [m for name in tapes.names() if (m := tapes.load(name))]
        body = {"gateway_url": gateway_url(), "tapes": [_tape(m) for m in manifests], "defaults": dict(DEFAULTS)}
        return _fresh(body)

    @router.get("/v1/tapes")
    def list_tapes() -> JSONResponse:
        """Every tape, and every alias with the tape and line it names."""
        manifests = [m for name in tapes.names() if (m := tapes.load(name))]
        aliases = {name: {"tape": a.tape, "line": a.line} for name, a in tapes.aliases().items()}
        return _fresh({"tapes": [_tape(m) for m in manifests], "aliases": aliases})

    @router.get("/v1/tapes/{tape}")
    def one_tape(tape: str) -> JSONResponse:
        """One tape, by its name or an alias: lines, instruments, sources, partitions."""
        manifest = _manifest(tapes, tape)
        lines = {n: {"run": x.run, "complete": x.complete, "config": x.config} for n, x in manifest.lines.items()}
        sources = [{"name": s.name, "sha256": s.sha256, "records": s.records} for s in manifest.sources]
        aliases = {name: alias.line for name, alias in tapes.aliases().items() if alias.tape == manifest.tape}
        more = {"partitions": manifest.partitions, "sources": sources, "aliases": aliases}
        return _fresh({**_tape(manifest), "lines": lines, **more})


def _add_serving(router: APIRouter, serving: Serving | None) -> None:
    @router.get("/v1/serving")
    def list_serving() -> JSONResponse:
        """Published serving versions, and the aliases that name them."""
        if serving is None:
            return _fresh({"versions": [], "aliases": {}})
        return _fresh({"versions": serving.versions(), "aliases": serving.aliases()})

    @router.get("/v1/serving/{name}")
    def one_serving(name: str) -> JSONResponse:
        """One serving version, by its id or an alias."""
        version = serving.resolve(name) if serving is not None else None
        if version is None:
            raise ApiError(404, "not_found", f"no serving version is named {name[:80]!r}", "see /v1/serving")
        asked = [dict(subscription) for subscription in version.subscriptions]
        return _fresh({"id": version.id, "note": version.note, "subscriptions": asked})


def _add_questions(router: APIRouter, tapes: TapeStore, settings: Settings) -> None:
    from control.api_sql import MEDIA, Ask, answer, as_reader
    from control.api_status import Board

    board = Board(settings)

    @router.get("/v1/cursor")
    def cursor(
        at: str, tape: str = "", line: str | None = None, stream: str = "bins", instrument: str = ""
    ) -> JSONResponse:
        """The row that `at` means: a cursor, or `@ns` with `tape`, `instrument`, `line` and `stream`."""
        from control.locate import locate_cursor, locate_time

        servers = settings.bootstrap_servers or Endpoints(settings.data_dir).find("kafka") or ""
        lake = object_store_at(settings.lake_location)
        if at.startswith("@") and at[1:].isascii() and at[1:].isdecimal() and len(at) <= 20:
            manifest, named = tapes.resolve(tape, line) if tape else (_manifest(tapes, tape), "")
            return _fresh(locate_time(int(at[1:]), manifest, named, stream, instrument, servers, lake))
        place = _cursor(at)
        return _fresh(locate_cursor(place, _manifest(tapes, place.tape), servers, lake))

    @router.post("/v1/sql")
    def sql(ask: Ask) -> Response:
        """Ask the store with a SELECT; the answer comes as JSON rows, CSV, Arrow or Parquet."""
        own = Endpoints(settings.data_dir).find("store")
        if settings.sql_url:
            pieces = answer(settings.sql_url, ask, trusted=False)
        elif settings.clickhouse_url or own is None:
            raise ApiError(
                503, "missing_service", "no store answers here", "start `barograph up`, or set BAROGRAPH_SQL_URL"
            )
        else:
            pieces = answer(as_reader(own), ask, trusted=True)
        first: Iterator[bytes] = iter([next(pieces)])
        return StreamingResponse(chain(first, pieces), media_type=MEDIA[ask.format], headers=NO_STORE)

    @router.get("/v1/status")
    def status() -> JSONResponse:
        """What answers, how far each consumer is behind, and what is missing."""
        return _fresh(board.look())


def _add_documents(router: APIRouter, app: FastAPI) -> None:
    @router.get("/v1/schema")
    def schema() -> JSONResponse:
        """The gateway's protocol and the topics: AsyncAPI 3.0."""
        from control.asyncapi import document

        return JSONResponse(document())

    @router.get("/v1/openapi.json")
    def openapi() -> JSONResponse:
        """This api: OpenAPI."""
        return JSONResponse(app.openapi())


def _fresh(body: Mapping[str, Any]) -> JSONResponse:
    return JSONResponse(dict(body), headers=NO_STORE)


def _manifest(tapes: TapeStore, name: str) -> Manifest:
    """A tape by its name or an alias."""
    manifest = None
    if is_name(name):
        alias = tapes.alias(name) if tapes.load(name) is None else None
        manifest = tapes.load(alias.tape if alias else name)
    if manifest is None:
        raise ApiError(404, "not_found", f"there is no tape {name[:80]!r}", "see /v1/tapes")
    return manifest


def _cursor(text: str) -> Cursor:
    try:
        return parse_cursor(text)
    except ValueError as error:
        remedy = "write tape/line/stream/instrument/seq.part.row, or @ns since the epoch"
        raise ApiError(400, "bad_input", "`at` is neither a cursor nor a time", remedy) from error


def _tape(manifest: Manifest) -> dict[str, Any]:
    instruments = {
        name: {"tick_px": i.tick_px, "bucket": i.bucket, "lot": i.lot} for name, i in manifest.instruments.items()
    }
    return {
        "name": manifest.tape,
        "id": manifest.tape_id,
        "state": manifest.state,
        "live": manifest.live,
        "lines": list(manifest.lines) or ["main"],
        "instruments": instruments,
    }
