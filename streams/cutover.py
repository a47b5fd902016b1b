"""Cutovers: where a line goes on under another `run`, from the state that the old one left.

Rows of a line carry the `run` that made them. A new release or configuration may take a live line over only at a
place where nothing of the old one is left half done: the tail of every output topic is complete and ends at the
checkpoint's seq. That place is written down, once, before the new run starts; a worker refuses a state of another run
that no cutover names. States of an older format are read through the stage's migrations.

A quiet line may be handed on several times at one place; so a cutover is named by its place and by whom it ends.

Layout in the object store: `cutovers/TAPE_ID/LINE/STAGE/PARTITION/<seq>.<from_run>.json`; announced on `ops.runs.v1`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from runtime.errors import BarographError, InputError
from runtime.object_store import ObjectStore
from streams.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class Cutover:
    """One partition of one stage goes on under another run.

    Attributes:
        seq: last root message of the old run.
        from_run, to_run: the runs.
        checkpoint: hash of the checkpoint that is taken over (`checkpoint_hash`).
    """

    seq: int
    from_run: str
    to_run: str
    checkpoint: str


class Cutovers:
    """The cutovers of one stage on one tape and line.

    Args:
        store: where they lie.
        below: `TAPE_ID/LINE/STAGE`.
    """

    def __init__(self, store: ObjectStore, below: str) -> None:
        self._store, self._prefix = store, f"cutovers/{below}"

    def allows(self, partition: int, checkpoint: Checkpoint, to_run: str) -> bool:
        """Whether `to_run` may go on from a checkpoint of another run: handed to it, or to one that handed it on."""
        run, digest, seen = checkpoint.run, checkpoint_hash(checkpoint), set[str]()
        while run != to_run and run not in seen:
            seen.add(run)
            known = self.find(partition, checkpoint.seq, run)
            if known is None or known != Cutover(checkpoint.seq, run, known.to_run, digest):
                return False
            run = known.to_run
        return run == to_run

    def find(self, partition: int, seq: int, from_run: str) -> Cutover | None:
        """The cutover at a place that ends a run there; None if there is none.

        Raises:
            BarographError: it is damaged.
        """
        name = self._name(partition, seq, from_run)
        data = self._store.get(name)
        try:
            return None if data is None else Cutover(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise BarographError(
                f"the record of a cutover, {name}, is damaged", remedy="write it again from `ops.runs.v1`"
            ) from error

    def write(self, partition: int, cutover: Cutover) -> None:
        """Write a cutover down; one that stands already must say the same.

        Raises:
            InputError: another cutover was made at this place.
        """
        body = json.dumps(asdict(cutover), sort_keys=True).encode()
        if not self._store.put_new(self._name(partition, cutover.seq, cutover.from_run), body):
            known = self.find(partition, cutover.seq, cutover.from_run)
            if known != cutover:
                raise InputError(
                    f"the line was handed to run {known.to_run if known else '?'} at seq {cutover.seq} already",
                    remedy="start a new line with --line",
                )

    def _name(self, partition: int, seq: int, from_run: str) -> str:
        return f"{self._prefix}/{partition}/{seq:020d}.{from_run}.json"


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """sha256 of a checkpoint: place, run, topic and the hashes of its pieces."""
    return hashlib.sha256(json.dumps(asdict(checkpoint), sort_keys=True).encode()).hexdigest()
