"""The child processes of a pipeline: how each is called. `run`, `up` and `demo` start the same ones."""

import sys
from collections.abc import Sequence

from control.arrival import SINKS
from control.supervisor import ProcessSpec
from runtime.settings import Settings


def argv(*words: str, settings: Settings) -> tuple[str, ...]:
    """A command of our own in a process of its own, on the same data folder."""
    return (sys.executable, "-m", "control.cli", *words, "--data", str(settings.data_dir))


def tape_specs(tape: str, line: str, settings: Settings, servers: str, store_url: str) -> list[ProcessSpec]:
    """What works on one tape and line: the books stage, and a process for each sink."""
    place = ("--tape", tape, "--line", line, "--bootstrap-servers", servers)
    specs = [ProcessSpec(f"books-{tape}-{line}", argv("stage", "books", *place, settings=settings))]
    for sink in SINKS:
        target = ("--lake-url", str(settings.lake_dir)) if sink == "lake" else ("--clickhouse-url", store_url)
        specs.append(ProcessSpec(f"{sink}-{tape}-{line}", argv("sink", sink, *place, *target, settings=settings)))
    return specs


def serving_specs(settings: Settings, servers: str) -> Sequence[ProcessSpec]:
    """What serves people: the api first, because the gateway lets its address in."""
    api = argv("api", "--host", settings.host, "--port", str(settings.api_port), settings=settings)
    gateway = argv(
        *("gateway", "--host", settings.host, "--port", str(settings.gateway_port), "--bootstrap-servers", servers),
        settings=settings,
    )
    return (ProcessSpec("api", api), ProcessSpec("gateway", gateway))
