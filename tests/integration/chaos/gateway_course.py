"""`make chaos-gateway`: slow readers beside healthy ones, and kills of gateway, broker and network, as a table.

    python -m tests.integration.chaos.gateway_course [slow] [kills]

Writes docs/evidence/gateway.json and gateway.md; a part that was not asked for keeps its last result. Ends with 1 if
anything was lost, doubled or different, or a figure was missed. `CHAOS_KILLS`, `CHAOS_CLIENTS` and `CHAOS_FLAT_S` make
it shorter.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from control.embedded.kafka import EmbeddedKafka
from tests.integration.chaos.evidence import hash_of, head, keep, say
from tests.integration.chaos.gateway_world import INSTRUMENT, Copy, Feed, Relay, free_port, gateway_of, relayed
from tests.integration.chaos.world import PATIENCE_S, Processes, StuckError
from tests.integration.conftest import ROOT

KILLS: Final = int(os.environ.get("CHAOS_KILLS", "100"))
CLIENTS: Final = int(os.environ.get("CHAOS_CLIENTS", "1000"))
FLAT_S: Final = float(os.environ.get("CHAOS_FLAT_S", "600"))

SHARES: Final = {"slow": 0.05, "dead": 0.01, "lame": 0.01}
"""Of the clients: those that read 1 kB/s, nothing, and half of what comes; the last are conflated and not cut."""

PAIRS: Final = 7
PHASE_S: Final = 20.0
WARM_S: Final = 3.0
RATE_HZ: Final = 5.0
FRAME_BYTES: Final = 20_480

CLIENT_BYTES_MAX: Final = 4 << 20
ABORT_S_MAX: Final = 10.0 + 2.0
"""A client is cut that is above its limit for 10 s; the watch over it looks every quarter of a second."""

RATIO_MAX: Final = 1.05
GROWTH_MAX: Final = 0.05
"""Of the gateway's memory, from the first to the last quarter of the flat part."""


# ---- slow readers ----------------------------------------------------------------------------------------------------


class Piped:
    """A process that is asked by lines on its standard input; a context."""

    def __init__(self, *argv: str) -> None:
        self._argv = [sys.executable, "-m", *argv]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self.process.stdin is not None, "it was opened with pipes"
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def say(self, **asked: Any) -> None:
        assert self.process.stdin is not None, "it was opened with pipes"
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line.

        Raises:
            StuckError: there is none, or it tells an error.
        """
        assert self.process.stdout is not None, "it was opened with pipes"
        told: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"error": "it has left"}')
        if "error" in told:
            raise StuckError(f"{self._argv[2]}: {told['error']}")
        return told

    def ask(self, **asked: Any) -> dict[str, Any]:
        self.say(**asked)
        return self.hear()


@dataclass(frozen=True)
class Shape:
    """How large the part with slow readers is."""

    clients: int = CLIENTS
    pairs: int = PAIRS
    phase_s: float = PHASE_S
    flat_s: float = FLAT_S
    rate_hz: float = RATE_HZ
    frame_bytes: int = FRAME_BYTES


def slow(shape: Shape = Shape()) -> dict[str, Any]:
    """Healthy clients with and without slow ones beside them, in turns; then all of them for long."""
    counts = {kind: max(1, round(share * shape.clients)) for kind, share in SHARES.items()}
    healthy = shape.clients - sum(counts.values())
    market = Piped("tests.integration.chaos.gateway_market", str(shape.rate_hz), str(shape.frame_bytes))
    crowd = Piped("tests.integration.chaos.gateway_crowd")
    laggards = Piped("tests.integration.chaos.gateway_crowd")  # on their own: who comes back must not hold up readers
    with market, crowd, laggards:
        place = market.hear()
        crowd.say(**place)
        laggards.say(**place)
        crowd.ask(do="join", kind="healthy", count=healthy)
        alone, beside = [], []
        for _ in range(shape.pairs):
            alone.append(_phase([crowd], shape)["late_ms"])
            for kind, count in counts.items():
                laggards.ask(do="join", kind=kind, count=count)
            beside.append(_phase([crowd, laggards], shape)["late_ms"])
            for kind in counts:
                laggards.ask(do="leave", kind=kind)
            say(f"p99 without and with slow clients: {alone[-1][1]:.1f}, {beside[-1][1]:.1f} ms")
        for kind, count in counts.items():
            laggards.ask(do="join", kind=kind, count=count)
        flat, cut, last = _flat(market, [crowd, laggards], shape)
    held = [s["rss_bytes"] for s in flat]
    quarter = max(1, len(held) // 4)
    first_rss, last_rss = statistics.median(held[:quarter]), statistics.median(held[-quarter:])
    ratios = [b[1] / a[1] for a, b in zip(alone, beside, strict=True)]
    return {
        "clients": {"healthy": healthy, **counts},
        "rate_hz": shape.rate_hz,
        "frame_bytes": shape.frame_bytes,
        "p99_ms_alone": [round(a[1], 2) for a in alone],
        "p99_ms_beside": [round(b[1], 2) for b in beside],
        "p50_ms_alone": [round(a[0], 2) for a in alone],
        "ratio_p50": round(statistics.median(ratios), 3),
        "faults": last["faults"],
        "left_out": last["left_out"],
        "frames": last["frames"],
        "cut": cut,
        "most_bytes_a_client": max(s["most_bytes_a_client"] for s in flat),
        "full_s_max": max(s["full_s_max"] for s in flat),
        "flat_s": shape.flat_s,
        "rss_mb_first_and_last_quarter": [round(first_rss / 2**20, 1), round(last_rss / 2**20, 1)],
        "rss_growth": round(last_rss / first_rss - 1, 4),
        "cpu_share": round((flat[-1]["cpu_s"] - flat[0]["cpu_s"]) / max(1.0, shape.flat_s), 3),
        "load_average": os.getloadavg()[0],
    }


def _phase(crowds: Sequence[Piped], shape: Shape) -> dict[str, Any]:
    return _go(crowds, seconds=shape.phase_s, warm_s=min(WARM_S, shape.phase_s / 4))


def _go(crowds: Sequence[Piped], **asked: float) -> dict[str, Any]:
    """All read at the same time; the first crowd's lateness, and the sums of what all tell."""
    for crowd in crowds:
        crowd.say(do="go", **asked)
    first, *others = [crowd.hear() for crowd in crowds]
    for other in others:
        first["faults"] += other["faults"]
        for key in ("left_out", "frames", "cut"):
            first[key] = {kind: count + other[key][kind] for kind, count in first[key].items()}
    return first


def _flat(
    market: Piped, crowds: Sequence[Piped], shape: Shape
) -> tuple[list[dict[str, Any]], Counter[str], dict[str, Any]]:
    """What the gateway holds while all read on: after a time in which the slow ones fill up."""
    cut = Counter(_go(crowds, seconds=min(30.0, shape.flat_s))["cut"])
    samples, last = [market.ask()], dict[str, Any]()
    end_s = time.monotonic() + shape.flat_s
    while time.monotonic() < end_s:
        last = _go(crowds, seconds=min(5.0, shape.flat_s / 4))
        cut.update(last["cut"])
        samples.append(market.ask())
    return samples, cut, last


# ---- kills -----------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """What may be struck."""

    broker: EmbeddedKafka
    gateway: Processes
    relay: Relay
    rng: random.Random

    async def gateway_killed(self) -> None:
        """The process ends at once, and is started again a moment later."""
        await asyncio.to_thread(self.gateway.kill, "one")
        await asyncio.sleep(self.rng.uniform(0, 1))
        await asyncio.to_thread(self.gateway.start, "one")

    async def gateway_stopped(self) -> None:
        """The process is asked to end, and is started again."""
        await asyncio.to_thread(self.gateway.stop, "one")
        await asyncio.to_thread(self.gateway.start, "one")

    async def broker_killed(self) -> None:
        """The broker ends at once, and is started again on the same folder and port."""
        pid = self.broker.pid
        assert pid is not None, "it was started"
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(self.rng.uniform(0, 1))
        await asyncio.to_thread(self.broker.stop)
        await asyncio.to_thread(self.broker.start)

    async def network_away(self) -> None:
        """Nothing gets through for a while; then it does again, or the connections are reset."""
        self.relay.freeze()
        await asyncio.sleep(self.rng.choice((0.3, 1.0, 3.0)))
        if self.rng.random() < 0.5:
            self.relay.cut()
        self.relay.thaw()

    async def network_long_away(self) -> None:
        """Longer than the gateway waits for a client."""
        self.relay.freeze()
        await asyncio.sleep(25.0)
        self.relay.cut()
        self.relay.thaw()


WEIGHTS: Final = {
    "gateway_killed": 30, "gateway_stopped": 10, "broker_killed": 20, "network_away": 37, "network_long_away": 3,
}  # fmt: skip


def plan(count: int, rng: random.Random) -> list[str]:
    """So many strikes in random order; with a few, one of each of the three that are killed comes first."""
    names = list(WEIGHTS)
    first = ["gateway_killed", "network_away", "broker_killed"][:count]
    return [*first, *rng.choices(names, [WEIGHTS[n] for n in names], k=count - len(first))]


async def strike(folder: Path, count: int, *, clients: int = 4, rate_hz: float = 40.0, seed: int = 0) -> dict[str, Any]:
    """Strike a running gateway so often at random moments, end the tape, and look what each client has."""
    rng, began_s = random.Random(seed), time.monotonic()
    broker, port = EmbeddedKafka(folder / "kafka", heap_mb=512), free_port()
    await asyncio.to_thread(broker.start)
    try:
        feed = Feed(folder / "data", broker.bootstrap_servers, "struck", rate_hz)
        feed.start()
        with closing(gateway_of(folder / "data", broker.bootstrap_servers, port)) as gateway:
            gateway.start("one")
            async with relayed(port) as (relay, url):
                copies = [Copy() for _ in range(clients)]
                await _until_listed(url, feed.tape)
                readers = [asyncio.create_task(copy.fill(url, feed.tape)) for copy in copies]
                struck, back = Counter[str](), list[float]()
                target = Target(broker, gateway, relay, rng)
                await _news(copies, readers)
                for name in plan(count, rng):
                    await asyncio.sleep(rng.uniform(0.1, 4.0))
                    await getattr(target, name)()
                    struck[name] += 1
                    if rng.random() < 0.7:  # the others are struck again before all of them are back
                        back.append(await _news(copies, readers))
                    say(f"{sum(struck.values())} of {count}: {name}; rows so far {[len(c.bins) for c in copies]}")
                bins = await asyncio.to_thread(feed.finish)
                await asyncio.wait(readers, timeout=120)
                for reader in readers:
                    reader.cancel()
                ends = await asyncio.gather(*readers, return_exceptions=True)
    finally:
        await asyncio.to_thread(broker.stop)
    told = [copy.unexplained(bins) for copy in copies]
    return {
        "strikes": dict(struck),
        "clients": clients,
        "bins": bins,
        "seconds": round(time.monotonic() - began_s),
        "back_s_p50_max": [round(statistics.median(back), 2), round(max(back), 2)] if back else [],
        "resumed": [copy.resumed for copy in copies],
        "gaps_told": [len(copy.gaps) for copy in copies],
        "unexplained": sum(missing for missing, _ in told),
        "twice": sum(twice for _, twice in told),
        "wrong_frames": sum(copy.wrong for copy in copies),
        "stuck": sum(isinstance(end, asyncio.CancelledError) for end in ends),
        "failures": [f"{type(e).__name__}: {e}" for e in ends if isinstance(e, Exception)],
        "publisher_restarts": feed.restarts,
        "load_average": os.getloadavg()[0],
    }


async def _news(copies: Sequence[Copy], readers: Sequence[asyncio.Task[None]]) -> float:
    """Wait until every client has got something new; how long that took, s.

    Raises:
        StuckError: one has not for `PATIENCE_S`.
    """
    began_s, had = time.monotonic(), [len(copy.bins) for copy in copies]
    while any(len(copy.bins) == before for copy, before in zip(copies, had, strict=True)):
        if time.monotonic() - began_s > PATIENCE_S or all(reader.done() for reader in readers):
            raise StuckError(f"rows that clients have, then and now: {had}, {[len(c.bins) for c in copies]}")
        await asyncio.sleep(0.05)
    return time.monotonic() - began_s


async def _until_listed(url: str, tape: str) -> None:
    import barograph
    from runtime.errors import BarographError

    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        try:
            async with barograph.connect(url) as client:
                if INSTRUMENT in client.hello["instruments"].get(tape, ()):
                    return
        except BarographError:
            pass
        await asyncio.sleep(0.3)
    raise StuckError("the gateway does not list the tape")


# ---- evidence --------------------------------------------------------------------------------------------------------


def faults_of(name: str, result: dict[str, Any]) -> list[str]:
    """What a part shows that must not be; empty if all is good."""
    if name == "kills":
        bad = ("unexplained", "twice", "wrong_frames", "stuck", "failures")
        return [f"{key}: {result[key]}" for key in bad if result[key]]
    found = slow_faults(result)
    if result["ratio_p50"] > RATIO_MAX:
        found.append(f"p99 of healthy clients is {result['ratio_p50']} of that without slow ones")
    if result["rss_growth"] > GROWTH_MAX:
        found.append(f"memory grew by {100 * result['rss_growth']:.1f} %")
    return found


def slow_faults(result: dict[str, Any]) -> list[str]:
    """Those that do not depend on how busy the machine is."""
    found = []
    if result["faults"]:
        found.append(f"{result['faults']} batches whose count does not add up")
    if result["left_out"]["healthy"] or result["cut"].get("healthy"):
        found.append("healthy clients were conflated or cut")
    if result["most_bytes_a_client"] > CLIENT_BYTES_MAX:
        found.append(f"{result['most_bytes_a_client']:,} bytes waited for one client")
    if result["full_s_max"] > ABORT_S_MAX:
        found.append(f"a client was above its limit for {result['full_s_max']} s")
    return found


def page(made: dict[str, Any]) -> str:
    """The evidence as a page."""
    lines = head("Faults around the gateway", "chaos-gateway", "gateway")
    if "slow" in made:
        s = made["slow"]["result"]
        first, last = s["rss_mb_first_and_last_quarter"]
        lines += [
            "",
            f"Slow readers: {sum(s['clients'].values()):,} clients from processes of their own "
            f"({_told(s['clients'])}), {s['rate_hz']:g} rows/s of {s['frame_bytes']:,} bytes. p99 from publication to "
            "reading, healthy clients:",
            "",
            "| | " + " | ".join(f"pair {n}" for n in range(1, 1 + len(s["p99_ms_alone"]))) + " |",
            "|---|" + "---|" * len(s["p99_ms_alone"]),
            "| without slow ones, ms | " + " | ".join(map(str, s["p99_ms_alone"])) + " |",
            "| with, ms | " + " | ".join(map(str, s["p99_ms_beside"])) + " |",
            "",
            f"Median ratio {s['ratio_p50']} (wanted: <= {RATIO_MAX}). Most that waited for one client: "
            f"{s['most_bytes_a_client']:,} bytes (limit {CLIENT_BYTES_MAX:,}); longest above its limit before it was "
            f"cut: {s['full_s_max']} s. Left out: {_told(s['left_out'])}; every count adds up ({s['faults']} do not). "
            f"Cut: {_told(s['cut'])}. Memory of the gateway over {s['flat_s']:g} s: {first} MiB, then {last} MiB; "
            f"{100 * s['cpu_share']:.0f} % of a core. Load average {s['load_average']:.1f}.",
        ]
    if "kills" in made:
        k = made["kills"]["result"]
        lines += [
            "",
            f"Kills: {sum(k['strikes'].values())} at random moments ({_told(k['strikes'])}) under {k['clients']} "
            f"lossless clients behind a relay that can stop forwarding, {k['bins']:,} bins in {k['seconds']:,} s. "
            f"All clients had new rows {_seconds(k['back_s_p50_max'])} after a strike. Connections resumed "
            f"{k['resumed']} times, gaps told {k['gaps_told']}. Bins neither had nor told as "
            f"missing: {k['unexplained']}; had twice or out of order: {k['twice']}; frames with other cells: "
            f"{k['wrong_frames']}; clients that ended early or not at all: {len(k['failures']) + k['stuck']}. "
            "Every digest of the gateway was that of what came. "
            f"Load average {k['load_average']:.1f}.",
        ]
    for name in made:
        lines += [f"\n**{name}: {fault}**" for fault in faults_of(name, made[name]["result"])]
    return "\n".join(lines) + "\n"


def _seconds(median_and_most: list[float]) -> str:
    return " and at most ".join(f"{s:g} s" for s in median_and_most) or "at once"


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def main() -> int:
    text, found = "", []
    for name in sys.argv[1:] or ("slow", "kills"):
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="chaos-gateway-", ignore_cleanup_errors=True) as folder:
            seed = hash_of(f"gateway {time.time_ns()}")
            result = slow() if name == "slow" else asyncio.run(strike(Path(folder), KILLS, seed=seed))
        found += faults_of(name, result)
        text = keep("gateway", name, result, began_s, page)
    say(text)
    say("\n".join(found) or "all good")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
