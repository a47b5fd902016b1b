"""Checkpoints: the state of a partition at an offset, kept so that a new owner continues exactly there.

Layout below `checkpoints/TAPE_ID/LINE/STAGE/PARTITION/`:

    pieces/<sha256>            one instrument's state, named by its content: unchanged pieces are written once
    manifests/<offset>.json    {offset, seq, run, topic_id, pieces: {instrument: sha256}, sha256 of all that}

A manifest is written after its pieces, under a name that sorts by offset and only if none of that name exists, so the
newest complete one is always the last name. Loading checks every hash and falls back to the one before. Three are kept.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from runtime.object_store import ObjectStore

log = logging.getLogger(__name__)

KEPT: Final = 3
"""Manifests kept: the newest, the one before for a damaged newest, and one more in case both fell to the same fault."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a partition.

    Attributes:
        offset: last input offset that is contained.
        seq: number of that input's root message.
        run: who computed it.
        topic_id: Kafka's id of the input topic, so that a re-created topic is not mistaken for the old one.
        pieces: instrument → sha256 of its state.
    """

    offset: int
    seq: int
    run: str
    topic_id: str
    pieces: Mapping[str, str]


class CheckpointStore:
    """The checkpoints of one stage on one tape and line.

    Args:
        store: where they lie.
        prefix: `checkpoints/TAPE_ID/LINE/STAGE`.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def save(self, partition: int, checkpoint: Checkpoint, pieces: Mapping[str, bytes]) -> None:
        """Write a checkpoint durably, unless one of the same or a larger offset exists; then forget old ones.

        Args:
            partition: the input partition.
            checkpoint: offset, seq, run and topic id; its `pieces` are computed here.
            pieces: instrument → state.
        """
        manifests = self._manifests(partition)
        if manifests and checkpoint.offset <= _offset_of(manifests[-1]):
            return
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in pieces.items()}
        for name, data in pieces.items():
            self._store.put_new(self._piece(partition, hashes[name]), data)
        body = json.dumps(asdict(replace(checkpoint, pieces=hashes)), sort_keys=True)
        text = json.dumps({"checkpoint": body, "sha256": hashlib.sha256(body.encode()).hexdigest()})
        self._store.put_new(self._manifest(partition, checkpoint.offset), text.encode())
        self._forget_old(partition)

    def load(self, partition: int) -> tuple[Checkpoint, dict[str, bytes]] | None:
        """The newest undamaged checkpoint with its pieces; None if there is none."""
        for name in reversed(self._manifests(partition)):
            loaded = self._read(partition, name)
            if loaded is not None:
                return loaded
            log.error("checkpoint %s is damaged; the one before is used", name)
        return None

    def _read_manifest(self, name: str) -> Checkpoint | None:
        try:
            outer = json.loads(self._store.get(name) or b"")
            body = outer["checkpoint"]
            if hashlib.sha256(body.encode()).hexdigest() != outer["sha256"]:
                return None
            return Checkpoint(**json.loads(body))
        except (ValueError, KeyError, TypeError):
            return None

    def _read(self, partition: int, name: str) -> tuple[Checkpoint, dict[str, bytes]] | None:
        checkpoint = self._read_manifest(name)
        if checkpoint is None:
            return None
        pieces = {i: self._store.get(self._piece(partition, digest)) for i, digest in checkpoint.pieces.items()}
        good = {i: p for i, p in pieces.items() if p and hashlib.sha256(p).hexdigest() == checkpoint.pieces[i]}
        return (checkpoint, good) if len(good) == len(pieces) else None

    def _forget_old(self, partition: int) -> None:
        manifests = self._manifests(partition)
        for name in manifests[:-KEPT]:
            self._store.delete(name)
        kept = [self._read_manifest(name) for name in manifests[-KEPT:]]
        if None in kept:
            return  # a damaged manifest may name any piece; leave them all
        named = {digest for checkpoint in kept if checkpoint for digest in checkpoint.pieces.values()}
        folder = self._piece(partition, "")
        for name in self._store.names(folder):
            if name.removeprefix(folder) not in named:
                self._store.delete(name)

    def _manifests(self, partition: int) -> list[str]:
        return list(self._store.names(f"{self._prefix}/{partition}/manifests/"))

    def _manifest(self, partition: int, offset: int) -> str:
        return f"{self._prefix}/{partition}/manifests/{offset:020d}.json"

    def _piece(self, partition: int, digest: str) -> str:
        return f"{self._prefix}/{partition}/pieces/{digest}"


def _offset_of(manifest_name: str) -> int:
    return int(manifest_name.rpartition("/")[2].removesuffix(".json"))
