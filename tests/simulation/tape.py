"""Tapes to simulate with: some instruments over one to four partitions, in small blocks.

A handful of variants, made once per process: what is random in a run is what happens to them. Each has everything a
raw topic can hold: definitions, also changed ones, data, clocks, ends; some hold messages that are broken.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from connectors import raw_messages
from runtime.tapes import Instrument, Line, Manifest
from schemas import topics
from schemas.mbo import MBO_DTYPE
from tests.simulation.log import record_of

VARIANTS = 12
CONFIG = {"cell_ns": 100_000_000, "radius": 2, "n_ticks": 64, "intervals_ns": [1_000_000_000]}
TICK_PX = 1_000
START_NS = 1_700_000_000 * 10**9
STEP_NS = 130_000_000
"""Between two messages of an instrument: more than a bin, so that most close some."""
TOPIC = topics.MBO.name("t")


@dataclass(frozen=True)
class Tape:
    """One variant.

    Attributes:
        variant: its number.
        manifest: as control would have written it.
        messages: (partition, record at an offset) in the order in which they are published.
        counts: messages by partition.
        broken: offsets by partition of what cannot be applied.
    """

    variant: int
    manifest: Manifest
    messages: tuple
    counts: tuple
    broken: tuple


@cache
def tape(variant):
    """A variant, always the same."""
    rng = np.random.default_rng(variant)
    partitions = 1 + variant % 4
    names = [f"I{number}" for number in range(max(partitions, int(rng.integers(2, 5))))]
    known = {name: Instrument(at % partitions, TICK_PX) for at, name in enumerate(names)}
    base = tuple(int(rng.choice([0, 7, 1000])) for _ in range(partitions))
    manifest = Manifest("t", f"{variant:016x}", partitions=partitions, base=base, instruments=known)
    manifest = replace(manifest, topic_ids={TOPIC: "id"}).with_line("main", Line("run", CONFIG))
    messages = [raw_messages.definition(TOPIC, n, known[n], t_ns=START_NS, source="") for n in names]
    for number in range(int(rng.integers(14, 26))):
        name = names[int(rng.integers(len(names)))]
        messages.append(_message(rng, name, known, START_NS + (number + 1) * STEP_NS))
    end_ns = START_NS + 30 * STEP_NS
    messages += [raw_messages.end(TOPIC, n, known[n].partition, t_ns=end_ns, source="") for n in names]
    spoiled = {}
    if variant % 3 == 1:
        for at in rng.choice(np.arange(len(names), len(messages)), 2, replace=False).tolist():
            messages[at], spoiled[at] = _broken(rng, messages[at], known), True
    return _laid_out(variant, manifest, messages, spoiled)


def _message(rng, name, known, t_ns):
    partition, dice = known[name].partition, rng.random()
    if dice < 0.12:
        return raw_messages.clock(TOPIC, name, partition, t_ns=t_ns, source="", arrived=-1)
    if dice < 0.16:
        changed = replace(known[name], bucket=2)
        return raw_messages.definition(TOPIC, name, changed, t_ns=t_ns, source="")
    records = _records(rng, int(rng.integers(1, 9)), t_ns)
    return raw_messages.data(TOPIC, name, partition, records, t_ns=t_ns, source="")


def _records(rng, count, t_ns):
    records = np.zeros(count, MBO_DTYPE)
    records["length"], records["rtype"], records["flags"] = 14, 160, 128
    records["ts_event"] = records["ts_recv"] = t_ns + np.arange(count) * 11_000_000
    records["order_id"] = rng.integers(1, 30, count)
    records["side"] = rng.choice(np.array([b"B", b"A"]), count)
    away = rng.integers(1, 8, count)
    records["price"] = np.where(records["side"] == b"B", 100 - away, 100 + away) * TICK_PX
    records["size"] = rng.integers(1, 10, count)
    records["action"] = rng.choice(np.array([b"A", b"A", b"C", b"M", b"T"]), count)
    records["sequence"] = np.arange(count)
    return records


def _broken(rng, message, known):
    """A message that no reducer can apply, in one of four ways; the last is a record that is not even ours."""
    way = int(rng.integers(4))
    if way == 0:
        return replace(message, envelope=replace(message.envelope, crc32=message.envelope.crc32 ^ 1))
    if way == 1:
        records = _records(rng, 2, START_NS)
        return raw_messages.data(TOPIC, "ghost", message.partition, records, t_ns=START_NS, source="")
    if way == 2:
        clock = raw_messages.clock(TOPIC, message.instrument, message.partition, t_ns=1, source="", arrived=-1)
        return replace(clock, envelope=replace(clock.envelope, t=-5))
    return replace(message, envelope=replace(message.envelope, other=(("kind", b"surprise"),)))


def _laid_out(variant, manifest, messages, spoiled):
    """Messages with their partitions and offsets."""
    ends, broken, out = [0] * manifest.partitions, [set() for _ in range(manifest.partitions)], []
    for at, message in enumerate(messages):
        if at in spoiled:
            broken[message.partition].add(ends[message.partition])
        out.append((message.partition, record_of(ends[message.partition], message)))
        ends[message.partition] += 1
    return Tape(variant, manifest, tuple(out), tuple(ends), tuple(broken))
