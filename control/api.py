"""The api process in its smallest form: the console's files, health, and where the gateway is.

The browser has one origin, this one; it learns the gateway's address from `/v1/config` and may connect nowhere else,
because the content security policy names just the two. There is no CORS: no other origin has any business here.
Beside that it is a read-only schema registry (`control.registry`) for consumers of the topics.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from control import registry
from runtime.errors import InputError
from runtime.object_store import object_store_at
from runtime.tapes import Manifest, TapeStore

DEFAULTS: Final[Mapping[str, Any]] = {"stream": "grid", "line": "main", "dtype": "f32"}
"""What the console subscribes to unless its address says otherwise."""

REPOSITORY: Final = Path(__file__).resolve().parents[1]


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


def create_app(*, gateway_url: Callable[[], str | None], state: str | Path, console: Path | None = None) -> FastAPI:
    """The application.

    Args:
        gateway_url: gives the gateway's address, `ws://host:port/v1/stream`, or None while it is not known.
        state: where the tape manifests lie: a folder or a URL.
        console: folder of the console's files; found by itself if not given.
    """
    app = FastAPI(title="barograph", docs_url=None, redoc_url=None, openapi_url=None)
    tapes = TapeStore(object_store_at(state))

    @app.middleware("http")
    async def harden(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(security_headers(gateway_url()))
        response.headers.setdefault("Cache-Control", "no-cache")  # files of a new release must not meet old ones
        return response

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/v1/config")
    def config() -> JSONResponse:
        """Where the gateway is, and what tapes, lines and instruments exist now."""
        manifests = [m for name in tapes.names() if (m := tapes.load(name))]
        body = {"gateway_url": gateway_url(), "tapes": [_tape(m) for m in manifests], "defaults": dict(DEFAULTS)}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    registry.install(app, lambda: [(m.tape, n) for m in map(tapes.require, tapes.names()) for n in m.lines or ["main"]])
    app.mount("/", StaticFiles(directory=console or console_dir(), html=True), name="console")
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
