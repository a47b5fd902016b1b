"""The child processes of a pipeline: how each is called. `run`, `up` and `demo` start the same ones."""

import sys

from control.arrival import SINKS
from control.supervisor import ProcessSpec
from runtime.settings import Settings


def argv(*words: str, settings: Settings) -> tuple[str, ...]:
    """A command of our own in a process of its own, on the same data folder."""
    return (sys.executable, "-m", "control.cli", *words, "--data", str(settings.data_dir))


def tape_specs(tape: str, line: str, settings: Settings, servers: str, store_url: str) -> list[ProcessSpec]:
    """What works on one tape and line: a worker with all stages, and a process for each sink."""
    place = ("--tape", tape, "--line", line, "--bootstrap-servers", servers)
    lake = ("--lake-url", settings.lake_location)
    specs = [ProcessSpec(f"stages-{tape}-{line}", argv("stage", *place, *lake, settings=settings))]
    for sink in SINKS:
        target = lake if sink == "lake" else ("--clickhouse-url", store_url)
        specs.append(ProcessSpec(f"{sink}-{tape}-{line}", argv("sink", sink, *place, *target, settings=settings)))
    return specs


def reconciling(settings: Settings, servers: str, store_url: str) -> ProcessSpec:
    """What compares topics, store and lake of all tapes again and again."""
    places = ("--bootstrap-servers", servers, "--clickhouse-url", store_url, "--lake-url", settings.lake_location)
    every = ("--watch", "--every", f"{settings.reconcile_every_s:g}")
    return ProcessSpec("reconcile", argv("reconcile", *every, *places, settings=settings))


def serving(settings: Settings, servers: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """What serves people: name, address and command; the api first, because the gateway lets its address in."""
    host, api_port, gateway_port = settings.host, settings.api_port, settings.gateway_port
    api = argv("api", "--host", host, "--port", str(api_port), settings=settings)
    gateway = argv(
        *("gateway", "--host", host, "--port", str(gateway_port), "--bootstrap-servers", servers), settings=settings
    )
    return [
        ("api", f"{settings.api_scheme}://{host}:{api_port}", api),
        ("gateway", f"{settings.gateway_scheme}://{host}:{gateway_port}/v1/stream", gateway),
    ]
