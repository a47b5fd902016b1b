"""One process each: broker, store, stage, sink, gateway, api. `up` and `run` start these; production starts them alone.

Every process publishes its address in the data folder when it answers, leaves in order on SIGTERM or Ctrl-C, and dies
with the process that started it.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from control import options
from control.claims import worker_slot
from control.output import Output
from runtime.endpoints import Endpoints, is_loopback
from runtime.errors import MissingServiceError, PortTakenError, UsageError
from runtime.lifeline import watch_lifeline
from runtime.object_store import object_store_at
from runtime.serving import ServingStore
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from runtime.telemetry import serve_metrics


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (broker, store, stage, sink, gateway, api):
        app.command(verb.__name__)(verb)


def broker(port: options.Port = None, data: options.Data = None, as_json: options.Json = False) -> None:
    """Run the embedded Apache Kafka until Ctrl-C."""
    from control.embedded.kafka import EmbeddedKafka

    settings, out = options.settings(data_dir=data, kafka_port=port), Output(as_json)
    watch_lifeline()
    folder, heap_mb = settings.data_dir / "kafka", settings.kafka_heap_mb
    with out.bar("Apache Kafka (first time)", "bytes") as advance:
        embedded = EmbeddedKafka(folder, port=settings.kafka_port, heap_mb=heap_mb, on_progress=advance)
        embedded.start()
    try:
        with _published(settings, "kafka", embedded.bootstrap_servers, out):
            while embedded.poll() is None:
                threading.Event().wait(0.5)
            raise MissingServiceError("the embedded broker died", remedy=f"its log is in {embedded.log_path}")
    finally:
        embedded.stop()


def store(port: options.Port = None, data: options.Data = None, as_json: options.Json = False) -> None:
    """Run the embedded ClickHouse behind its HTTP interface until Ctrl-C."""
    from control.embedded.store import EmbeddedStore

    settings, out = options.settings(data_dir=data, store_port=port), Output(as_json)
    watch_lifeline()
    embedded = EmbeddedStore(settings.data_dir, settings.store_port, reader_at=settings.store_reader)
    endpoint = _published(settings, "store", embedded.url, out)
    try:
        embedded.serve(on_ready=endpoint.announce)
    finally:
        endpoint.__exit__()


def stage(
    tape: options.Tape,
    names: Annotated[list[str] | None, typer.Argument(help="which stages: books, bars; all if none is named")] = None,
    line: options.Line = "main",
    slot: Annotated[int, typer.Option("--slot", min=0, help="number of this worker among those of these stages")] = 0,
    bootstrap_servers: options.Bootstrap = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
) -> None:
    """Run a worker of one or more stages on a tape and line until Ctrl-C."""
    from streams.stages import STAGES
    from streams.worker import run_stages

    for name in names or ():
        if name not in STAGES:
            raise UsageError(f"there is no stage {name!r}", remedy=f"use one of: {', '.join(STAGES)}")
    settings = _with_broker(options.settings(data_dir=data, bootstrap_servers=bootstrap_servers, lake_url=lake_url))
    watch_lifeline()
    named = [one for one in STAGES if not names or one in names]

    def admit(manifest: Manifest) -> None:
        worker_slot(settings.state_dir, manifest, line, named, slot).acquire()

    run_stages(named, tape, line, settings, slot=slot, admit=admit)


def sink(
    name: Annotated[str, typer.Argument(help="which sink: clickhouse or lake")],
    tape: options.Tape,
    line: options.Line = "main",
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
) -> None:
    """Write a tape and line to ClickHouse or the lake until Ctrl-C."""
    from control.arrival import report_sink
    from sinks.runner import run_sink

    settings = _with_broker(
        options.settings(
            data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
        )
    )
    watch_lifeline()
    if name != "clickhouse" and name != "lake":
        raise UsageError(f"there is no sink {name!r}", remedy="use clickhouse or lake")
    manifest = TapeStore(object_store_at(settings.state_location)).require(tape)
    target = settings.lake_location if name == "lake" else settings.clickhouse_url or _find(settings, "store")
    manifest.require_line(line)
    serve_metrics(settings.metrics_port)
    run_sink(
        cast("Any", name),
        manifest,
        line,
        bootstrap_servers=settings.bootstrap_servers,
        target=target,
        state_dir=settings.state_dir,
        stop=until_signal(),
        on_progress=report_sink(settings.state_dir, manifest, line),
        lake=settings.lake_location if name == "clickhouse" else "",
    )


def gateway(
    host: Annotated[str | None, typer.Option("--host", help="address to bind")] = None,
    port: options.Port = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Serve the live grid over WebSocket until Ctrl-C."""
    given = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers, host=host, gateway_port=port)
    settings, out = _with_broker(given), Output(as_json)
    watch_lifeline()
    asyncio.run(_gateway(settings, out))


async def _gateway(settings: Settings, out: Output) -> None:
    from runtime.auth import open_authority
    from runtime.tls import open_tls
    from ws_gateway.server import serve

    stop, endpoints = asyncio.Event(), []
    authority, tls = open_authority(settings), open_tls(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(port: int) -> None:
        address = f"{settings.gateway_scheme}://{settings.host}:{port}/v1/stream"
        endpoints.append(_published(settings, "gateway", address, out).__enter__())

    watchers = [part for part in (authority, tls) if part is not None]
    for part in watchers:
        part.start()
    try:
        await serve(
            host=settings.host,
            port=settings.gateway_port,
            bootstrap_servers=settings.bootstrap_servers,
            state=settings.state_location,
            lake=settings.lake_location,
            allowed_origins=_origins(settings),
            stop=stop,
            on_ready=ready,
            authority=authority,
            tls=None if tls is None else tls.context,
        )
    finally:
        for part in watchers:
            part.close()
        for endpoint in endpoints:
            endpoint.__exit__()


def api(
    host: Annotated[str | None, typer.Option("--host", help="address to bind")] = None,
    port: options.Port = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Serve the console and the HTTP API until Ctrl-C."""
    import uvicorn

    from control.api import create_app
    from control.api_guard import Trust
    from runtime.auth import open_authority
    from runtime.tls import open_tls

    settings, out = options.settings(data_dir=data, host=host, api_port=port), Output(as_json)
    authority, tls = open_authority(settings), open_tls(settings)
    if authority is None and not is_loopback(settings.host):
        raise UsageError(
            f"the api would answer everybody at {settings.host}", remedy="set BAROGRAPH_AUTH, or bind 127.0.0.1"
        )
    for part in (authority, tls):
        if part is not None:
            part.start()
    watch_lifeline()
    endpoints = Endpoints(settings.data_dir)
    app = create_app(
        gateway_url=lambda: endpoints.find("gateway"),
        state=settings.state_location,
        settings=settings,
        trust=Trust(authority, frozenset({settings.host})),
        serving=ServingStore(object_store_at(settings.state_location)),
    )
    config = uvicorn.Config(app, settings.host, settings.api_port, log_config=None, access_log=False)
    try:
        listening = config.bind_socket()
    except SystemExit as error:
        raise PortTakenError(settings.host, settings.api_port) from error
    config.load()
    config.ssl = None if tls is None else tls.context
    listening.listen(config.backlog)  # whoever reads the address may connect at once
    address = f"{settings.api_scheme}://{settings.host}:{listening.getsockname()[1]}"
    with _published(settings, "api", address, out):
        uvicorn.Server(config).run([listening])


class _published:  # noqa: N801  (a context manager used like a function)
    """An endpoint in `endpoints.json` for the time of a `with`, announced on standard output."""

    def __init__(self, settings: Settings, name: str, address: str, out: Output) -> None:
        self._endpoints, self._name, self._address, self._out = Endpoints(settings.data_dir), name, address, out

    def announce(self) -> None:
        self._endpoints.publish(self._name, self._address)
        self._out.result({self._name: self._address})

    def __enter__(self) -> "_published":
        self.announce()
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoints.withdraw(self._name)


def _with_broker(settings: Settings) -> Settings:
    servers = settings.bootstrap_servers or _find(settings, "kafka")
    return settings.model_copy(update={"bootstrap_servers": servers})


def _find(settings: Settings, part: str) -> str:
    address = Endpoints(settings.data_dir).find(part)
    if address is None:
        verb = "broker" if part == "kafka" else part
        raise MissingServiceError(
            f"no {verb} runs on {settings.data_dir}", remedy=f"start `barograph {verb}`, or give its address"
        )
    return address


def _origins(settings: Settings) -> list[str]:
    """Where the console may come from: the api of this folder, by its names, and what the settings allow."""
    ports = {settings.api_port}
    known = Endpoints(settings.data_dir).find("api")
    if known:
        ports.add(int(known.rpartition(":")[2]))
    own = {"127.0.0.1", "localhost", settings.host} - {"0.0.0.0", "::"}
    further = [origin for origin in settings.auth_origins.split(",") if origin]
    scheme = settings.api_scheme
    return [*(f"{scheme}://{host}:{port}" for port in sorted(ports) for host in sorted(own)), *further]


def until_signal() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, for work that stops by itself in order."""
    stop = threading.Event()
    handler: Callable[..., None] = lambda *_: stop.set()  # noqa: E731
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    return stop
