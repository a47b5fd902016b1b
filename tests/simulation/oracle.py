"""What must be true: outputs of one undisturbed pass, and the rules that hold at every moment.

The oracle runs the same reducers through `PartitionState` alone: no shell, no broker, no faults. It sees every write
to the log and to the disk at once and says at the first wrong one what is wrong. Rules:

    log       every copy of every (seq, part) has the bytes and headers of the oracle; none stands before the one that
              precedes it: after the first of each is taken there are no holes and no repeats
    state     a checkpoint is stored only when all outputs up to its seq are in the log; the newest never goes back
    input     acknowledged only after that checkpoint; committed no further than acknowledged
    skips     written only for messages that are planned to be poison, or that the oracle cannot apply either
    sinks     each place of each lane once, in order
    errors    nothing escapes a worker that the plan did not put there; two copies never contradict each other
"""

import json
import traceback
from collections import defaultdict
from types import SimpleNamespace

from runtime.codec import decode_avro
from runtime.errors import BarographError
from runtime.sequence import ConflictError
from schemas import topics
from schemas.message import Message
from streams.checkpoints import CheckpointStore
from streams.partition import PartitionState, Place
from streams.poison import PoisonStore, one_line
from streams.reducer import BrokenMessageError
from streams.shell import TrimmedError, read
from tests.simulation.poison import KILLS, RAISES
from tests.simulation.stores import StillStore


class Expected:
    """The outputs of one stage on one partition, root by root.

    Args:
        stage: the stage.
        manifest: the tape.
        partition: the partition.
        inputs: seq → its input messages, as (message, what is wrong with its headers).
        skip_of: (seq, part) → reason, for messages that are skipped by plan; None for all others.
    """

    def __init__(self, stage, manifest, partition, inputs, skip_of):
        base = manifest.base[partition]
        place = Place(manifest.tape, "main", partition, base, manifest.lines["main"].run)
        self._state = PartitionState(stage, place, stage.reducer(), base)
        self._inputs, self._skip_of, self._next = inputs, skip_of, base
        self._roots = {}
        self.skipped = set()

    def root(self, seq):
        """Topic → messages of a root, in order."""
        while self._next <= seq:
            found = defaultdict(list)
            for message, unreadable in self._inputs(self._next):
                for outgoing in self._take(message, unreadable):
                    found[outgoing.topic].append(outgoing)
            self._roots[self._next] = found
            self._next += 1
        return self._roots[seq]

    def _take(self, message, unreadable):
        place = self._state.place_of(message)
        skip = self._skip_of(place) or one_line(unreadable)
        try:
            outbox = self._state.take(message, skip)
        except BrokenMessageError as error:
            skip = one_line(error.reason)
            outbox = self._state.take(message, skip)
        if skip:
            self.skipped.add(place)
        return outbox


_EXPECTED = {}
"""(variant, stage, partition) → Expected where nothing but the tape decides; shared by all runs of a process."""


class Oracle:
    """Judges a world as it goes.

    Args:
        world: the world; `world.violated` is called with what is wrong.
    """

    def __init__(self, world):
        self._world = world
        self._own = {}
        manifest = world.manifest
        self.outputs = {
            output.topic.name(manifest.tape, "main"): stage
            for stage in world.stages
            for output in stage.outputs.values()
        }
        self.stage_of = {stage.source.name(manifest.tape, "main"): stage for stage in world.stages}
        self.frontier = {(t, p): (manifest.base[p], 0) for t in self.outputs for p in range(manifest.partitions)}
        self.stored_at = defaultdict(lambda: -1)
        self.damaged = set()
        self.letters = {}

    # -- what should be ----------------------------------------------------------------------------------------------

    def expected(self, stage, partition):
        """The outputs of a stage on a partition."""
        key = stage.name, partition
        if key in self._own:
            return self._own[key]
        world = self._world
        if any(plan in (RAISES, KILLS) for plan, _ in world.poison.values()):
            made = self._own[key] = self._make(stage, partition)
            return made
        key = world.tape.variant, *key
        if key not in _EXPECTED:
            _EXPECTED[key] = self._make(stage, partition)
        return _EXPECTED[key]

    def _make(self, stage, partition):
        world, manifest = self._world, self._world.manifest
        if stage.source is topics.MBO:
            records = [record for number, record in world.tape.messages if number == partition]
            base, topic = manifest.base[partition], stage.source.name(manifest.tape)

            def inputs(seq):
                record = records[seq - base]
                delivery = SimpleNamespace(
                    topic=topic, partition=partition, offset=record.offset, timestamp=record.timestamp_ms / 1000,
                    key=record.key, value=record.value, headers=record.headers,
                )  # fmt: skip
                return [read(delivery)]
        else:
            topic = stage.source.name(manifest.tape, "main")
            before = self.expected(self.outputs[topic], partition)

            def inputs(seq):
                return [
                    (Message(topic, partition, -1, o.timestamp_ms, o.instrument, o.value, o.envelope), "")
                    for o in before.root(seq)[topic]
                ]

        def skip_of(place):
            plan, _ = world.poison.get((stage.name, partition, place[0]), ("", 0))
            if plan not in (RAISES, KILLS) or place[1]:
                return ""
            skips = PoisonStore(StillStore(world.disk), f"{manifest.tape_id}/main/{stage.name}/{partition}").skips()
            if place not in skips:
                world.violated(f"{stage.name}[{partition}] {place} is poison and was applied")
                return "?"
            return skips[place].reason

        return Expected(stage, manifest, partition, inputs, skip_of)

    # -- what is -----------------------------------------------------------------------------------------------------

    def appended(self, topic, partition, record):
        """A message was written to the log."""
        stage = self.outputs.get(topic)
        if stage is None:
            self._record(topic, record)
            return
        envelope, place = record.envelope, (record.envelope.seq, record.envelope.part)
        self._world.note("log", topic, partition, "holds", place, "at", record.offset)
        expected, key = self.frontier[topic, partition], (topic, partition)
        if place > expected:
            self._world.violated(f"{topic}[{partition}] has a hole: {place} stands where {expected} is due")
            return
        known = self.expected(stage, partition).root(place[0])[topic]
        wanted = known[place[1]] if place[1] < len(known) else None
        if wanted is None or (wanted.value, wanted.instrument.encode(), wanted.envelope) != (
            record.value, record.key, envelope,
        ):  # fmt: skip
            self._world.violated(f"{topic}[{partition}] {place} is not what it must be")
        if place == expected:
            self.frontier[key] = (place[0] + 1, 0) if envelope.last else (place[0], place[1] + 1)
        else:
            self._world.tally["repeats in the log"] += 1

    def _record(self, topic, record):
        """Dead letters and gaps: the same id always says the same."""
        schema = {topics.DEAD_LETTERS.name("t"): "dead_letter", topics.GAPS.name("t"): "gap"}.get(topic)
        if schema is None:
            return
        known = decode_avro(schema, record.value)
        if self.letters.setdefault((schema, known["id"]), known) != known:
            self._world.violated(f"{schema} {known['id'][:8]} says two things")

    def stored(self, name):
        """An object was written to the disk."""
        words = name.split("/")
        if words[0] == "skips":
            self._skipped(words[3], int(words[4]), name)
        if words[0] != "checkpoints" or words[5] != "manifests":
            return
        stage_name, partition, offset = words[3], int(words[4]), int(words[6].removesuffix(".json"))
        checkpoint = json.loads(json.loads(self._world.disk.objects[name])["checkpoint"])
        stage = next(s for s in self._world.stages if s.name == stage_name)
        self._complete(stage, partition, checkpoint["seq"], f"checkpoint {offset}")
        newest = int(self._world.disk.names(name.rpartition("/")[0])[-1].rpartition("/")[2].removesuffix(".json"))
        if newest < self.stored_at[stage_name, partition] and (stage_name, partition) not in self.damaged:
            self._world.violated(f"checkpoints of {stage_name}[{partition}] went back to {newest}")
        self.stored_at[stage_name, partition] = max(offset, self.stored_at[stage_name, partition])

    def _skipped(self, stage_name, partition, name):
        """A skip was written down: by plan, or because the oracle cannot apply the message either."""
        place = tuple(map(int, name.rpartition("/")[2].split(".")[:2]))
        plan, _ = self._world.poison.get((stage_name, partition, place[0]), ("", 0))
        self._world.tally["skips"] += 1
        if plan in (RAISES, KILLS) and not place[1]:
            return
        stage = next(s for s in self._world.stages if s.name == stage_name)
        expected = self.expected(stage, partition)
        expected.root(place[0])
        if place not in expected.skipped:
            self._world.violated(f"{stage_name}[{partition}] skips {place}, which is innocent")

    def _complete(self, stage, partition, seq, what):
        for output in stage.outputs.values():
            topic = output.topic.name(self._world.manifest.tape, "main")
            if self.frontier[topic, partition] < (seq + 1, 0):
                self._world.violated(
                    f"{what} of {stage.name}[{partition}] holds seq {seq}, but {topic} ends before "
                    f"{self.frontier[topic, partition]}"
                )

    def acknowledged(self, topic, partition, offset):
        """A message of the input was acknowledged."""
        stage = self.stage_of[topic]
        record = self._world.broker.partition(topic, partition).records[offset]
        raw = stage.source is topics.MBO
        seq = offset + self._world.manifest.base[partition] if raw else record.envelope.seq
        self._complete(stage, partition, seq, f"acknowledgement of {offset}")
        if offset > self.stored_at[stage.name, partition]:
            self._world.violated(f"{stage.name}[{partition}] acknowledges {offset}, which no checkpoint holds")

    def committed(self, offsets):
        """The group accepted offsets."""
        for (topic, partition), offset in offsets.items():
            if offset - 1 > self.stored_at[self.stage_of[topic].name, partition]:
                self._world.violated(f"{topic}[{partition}] is committed up to {offset}, which no checkpoint holds")

    def failed(self, worker, error):
        """An exception escaped a worker."""
        if isinstance(error, TrimmedError):
            self._world.refused(error)
        elif isinstance(error, ConflictError) or not isinstance(error, BarographError | OSError | ZeroDivisionError):
            trace = "".join(traceback.format_exception(error)[-3:])
            self._world.violated(f"{worker.name} fails: {type(error).__name__}: {error}\n{trace}")

    # -- the end -----------------------------------------------------------------------------------------------------

    def missing(self):
        """What is not done yet, in words; empty when everything is."""
        world, manifest = self._world, self._world.manifest
        out = []
        for (topic, partition), place in self.frontier.items():
            end = manifest.base[partition] + world.tape.counts[partition]
            if place != (end, 0):
                out.append(f"{topic}[{partition}] is at {place} of {end}")
        for topic in self.stage_of:
            for partition in range(manifest.partitions):
                lag = world.broker.partition(topic, partition).end - world.group.committed.get((topic, partition), 0)
                if lag:
                    out.append(f"{topic}[{partition}] has a lag of {lag}")
        return out

    def newest_is_good(self, stage, partition):
        """Whether the newest checkpoint holds the whole input, undamaged."""
        manifest = self._world.manifest
        store = CheckpointStore(StillStore(self._world.disk), f"checkpoints/{manifest.tape_id}/main/{stage.name}")
        loaded = store.load(partition)
        topic = stage.source.name(manifest.tape, "main")
        return loaded is not None and loaded[0].offset >= self.whole_end(topic, partition) - 1

    def whole_end(self, topic, partition):
        """Offset after the message of a topic with which its last root was first complete."""
        records = self._world.broker.partition(topic, partition).records
        if topic == self._world.raw_topic:
            return len(records)
        newest = max(record.envelope.seq for record in records)
        return next(r.offset for r in records if r.envelope.seq == newest and r.envelope.last) + 1

    def check_letters(self):
        """Each skipped message has its letter with its bytes, and its gap record."""
        world, manifest = self._world, self._world.manifest
        letters = {
            (k["stage"], k["partition"], k["seq"]): k
            for (schema, _), k in self.letters.items()
            if schema == "dead_letter"
        }
        gaps = {(k["stage"], k["seq_from"]) for (schema, _), k in self.letters.items() if schema == "gap"}
        for stage in world.stages:
            for partition in range(manifest.partitions):
                below = f"{manifest.tape_id}/main/{stage.name}/{partition}"
                for (seq, part), skip in PoisonStore(StillStore(world.disk), below).skips().items():
                    letter = letters.get((stage.name, partition, seq))
                    record = world.broker.partition(skip.topic, partition).records[skip.offset]
                    if letter is None or letter["value"] != record.value or (stage.name, seq) not in gaps:
                        world.violated(
                            f"the skip of {stage.name}[{partition}] {seq}.{part} has no letter with its bytes"
                        )
