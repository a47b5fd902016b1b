"""Verbs of API keys: `keys add|list|revoke`. A key's text is shown once, when it is made."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from control import options
from control.output import Output, plain, rows
from runtime.auth_rules import Role
from runtime.errors import UsageError
from runtime.settings import Settings
from schemas.units import NS_PER_SECOND

DAY_S = 86_400

keys_app = typer.Typer(help="API keys: who may use gateway and api.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="the user; several keys may have one name")],
    role: Annotated[str, typer.Option("--role", help="viewer, trader or admin")] = Role.VIEWER.value,
    days: Annotated[int | None, typer.Option("--days", min=1, max=3650, help="until it ends; default: never")] = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Make a key and show it, once; it is good within 5 s."""
    if role not in {known.value for known in Role}:
        raise UsageError(f"there is no role {role!r}", remedy=f"use {', '.join(known.value for known in Role)}")
    now_ns = time.time_ns()
    expires_ns = None if days is None else now_ns + days * DAY_S * NS_PER_SECOND
    key, text = _store(options.settings(data_dir=data)).add(name, Role(role), now_ns, expires_ns)
    out = Output(as_json)
    out.result({**_shown(key, now_ns), "key": text})
    out.note("keep the key now: only its hash is stored. BAROGRAPH_AUTH=keys lets it in")


@keys_app.command("list")
def list_keys(data: options.Data = None, as_json: options.Json = False) -> None:
    """List the keys, without their secrets."""
    ring, now_ns = _store(options.settings(data_dir=data)).read(), time.time_ns()
    found = [_shown(key, now_ns) for key in ring.keys]
    titles = ("id", "name", "role", "state", "created", "expires", "revoked")
    body = [[plain(row[title]) for title in titles] for row in found]
    Output(as_json).result(found, lambda console: console.print(rows(titles, body)))


@keys_app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="id of the key, or with --token of a token (its `jti`)")],
    token: Annotated[bool, typer.Option("--token", help="it is a token that an identity provider issued")] = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """End a key or token: new requests are refused and sessions closed within 10 s."""
    store, now_ns = _store(options.settings(data_dir=data)), time.time_ns()
    if token:
        store.revoke_token(key)
        Output(as_json).result({"token": key, "state": "revoked"})
    else:
        Output(as_json).result(_shown(store.revoke(key, now_ns), now_ns))


def _store(settings: Settings) -> Any:
    from runtime.auth_keys import KeyStore
    from runtime.object_store import object_store_at

    return KeyStore(object_store_at(settings.state_location))


def _shown(key: Any, now_ns: int) -> dict[str, str]:
    ended = key.expires_ns is not None and now_ns >= key.expires_ns
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "state": "revoked" if key.revoked_ns is not None else "expired" if ended else "good",
        "created": _day(key.created_ns),
        "expires": _day(key.expires_ns),
        "revoked": _day(key.revoked_ns),
    }


def _day(ns: int | None) -> str:
    return "" if ns is None else datetime.fromtimestamp(ns / NS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
