"""The result of a bench: one document for programs, one table for people."""

import os
import platform
from importlib import metadata
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from control.bench.session import Outcome

_PIPED_WIDTH: Final = 150


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cpus": _cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "numba": metadata.version("numba"),
    }


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Name of the processor; empty if the system does not tell it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def document(name: str, outcome: Outcome, runs: int, quick: bool) -> dict[str, Any]:
    """The result for programs; figures of a quick or noisy bench are told but not judged."""
    noisy = outcome.calibration.noisy
    return {
        "bench": name,
        "machine": machine(),
        "calibration": outcome.calibration.document(_cpus()),
        "noisy": noisy,
        "quick": quick,
        "runs": runs,
        "rows": outcome.documents(judge=not (quick or noisy)),
        "skipped": outcome.skipped,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """The result for people; what is piped gets a line wide enough for all columns."""
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, right in (("row", 0), ("value", 1), ("unit", 0), ("min – max", 1), ("ratio", 1), ("of", 0)):
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "of", overflow="fold")
    for title in ("gate", "aim"):
        table.add_column(title, no_wrap=True)
    for row in result["rows"]:
        base = "" if row["baseline"] is None else f"{row['baseline']} {_number(row['baseline_value'])}"
        table.add_row(
            row["row"],
            _number(row["value"]),
            row["unit"],
            f"{_number(row['min'])} – {_number(row['max'])}",
            "" if row["ratio"] is None else f"{row['ratio']:.3g}",
            base,
            _bound(row["gate"], row["gate_met"], row["judged"]),
            _bound(row["aim"], row["aim_met"], row["judged"]),
        )
    console.print(table)
    for skipped in result["skipped"]:
        console.print(f"[dim]skipped {skipped['row']}: {skipped['reason']}[/dim]")
    c = result["calibration"]
    kernels = (f"{name} {c[f'{name}_ns']:.3g} ns (quiet {c[f'{name}_ns_quiet']})" for name in ("touch", "load"))
    console.print(f"\n{', '.join(kernels)}, {c['cpus']} CPUs, median of {result['runs']} runs")
    if result["noisy"]:
        console.print(f"[yellow]noisy: this machine runs {c['slowdown']:.2g}x slower than quiet; not judged[/yellow]")
    elif result["quick"]:
        console.print("quick: the figures are not judged")


def _number(value: float | None) -> str:
    """A figure with a scale that can be read."""
    if value is None:
        return ""
    for scale, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def _bound(bound: dict[str, Any] | None, met: bool | None, judged: bool) -> str:
    """A gate or an aim, and whether it was reached; dim if that is not to be relied on."""
    if bound is None:
        return ""
    colour = ("green" if met else "red") if judged else "dim"
    return f"[{colour}]{bound['relation']} {_number(bound['limit'])} {'met' if met else 'missed'}[/{colour}]"
