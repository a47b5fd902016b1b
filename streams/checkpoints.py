"""Checkpoints: the state of a partition at an offset, kept so that a new owner continues exactly there.

Layout below `checkpoints/TAPE_ID/LINE/STAGE/PARTITION/`:

    pieces/<sha256>            one instrument's state, named by its content: unchanged pieces are written once
    manifests/<offset>.json    {offset, seq, run, topic_id, pieces: {instrument: sha256}, sha256 of all that}

A manifest is written after its pieces, under a name that sorts by offset and only if none of that name exists, so the
newest complete one is always the last name. Loading checks every hash and falls back to the one before. Three are kept.
What does not match its own hash goes away when it is met: a name that is taken would keep the good one from being
written, and a piece of a quiet instrument is named by every manifest.

A worker that lost the partition and does not know it yet may tidy up at the same time. It cannot take the newest
manifest's place, but it may remove a piece whose manifest it has not seen; so pieces are counted after the manifest is
written, and what is missing is written again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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
        state_format: form of the pieces (`streams.reducer.Stage`).
        pieces: instrument → sha256 of its state.
    """

    offset: int
    seq: int
    run: str
    topic_id: str
    state_format: int
    pieces: Mapping[str, str] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one stage on one tape and line.

    Args:
        store: where they lie.
        prefix: `checkpoints/TAPE_ID/LINE/STAGE`.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._hashed: dict[tuple[int, str], tuple[bytes, str]] = {}  # pieces of the last checkpoint, with their hashes

    def save(self, partition: int, checkpoint: Checkpoint, pieces: Mapping[str, bytes]) -> None:
        """Write a checkpoint durably, unless one of a larger offset exists; then forget old ones.

        Args:
            partition: the input partition.
            checkpoint: all but its `pieces`, which are computed here.
            pieces: instrument → state; pieces that are the same object as last time are not looked at again.
        """
        manifests = self._manifests(partition)
        if manifests and checkpoint.offset < _offset_of(manifests[-1]):
            return
        hashes = {name: self._write_piece(partition, name, data) for name, data in pieces.items()}
        body = json.dumps(asdict(replace(checkpoint, pieces=hashes)), sort_keys=True)
        text = json.dumps({"checkpoint": body, "sha256": hashlib.sha256(body.encode()).hexdigest()})
        self._store.put_new(self._manifest(partition, checkpoint.offset), text.encode())
        left = self._forget_old(partition)
        for name, digest in hashes.items():
            if digest not in left:
                self._store.put(self._piece(partition, digest), pieces[name])

    def _write_piece(self, partition: int, name: str, data: bytes) -> str:
        """Write a piece unless it was written before; its hash."""
        before, digest = self._hashed.get((partition, name), (b"", ""))
        if data is before:
            return digest
        digest = hashlib.sha256(data).hexdigest()
        self._store.put_new(self._piece(partition, digest), data)
        self._hashed[partition, name] = data, digest
        return digest

    def load(self, partition: int) -> tuple[Checkpoint, dict[str, bytes]] | None:
        """The newest undamaged checkpoint with its pieces; None if there is none. What is damaged is removed."""
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
            self._store.delete(name)
            return None
        pieces = {i: self._read_piece(partition, digest) for i, digest in checkpoint.pieces.items()}
        good = {i: piece for i, piece in pieces.items() if piece is not None}
        return (checkpoint, good) if len(good) == len(pieces) else None

    def _read_piece(self, partition: int, digest: str) -> bytes | None:
        """A piece; None if it is missing, or was damaged and is missing now."""
        piece = self._store.get(self._piece(partition, digest))
        if piece is not None and hashlib.sha256(piece).hexdigest() != digest:
            self._store.delete(self._piece(partition, digest))
            return None
        return piece

    def _forget_old(self, partition: int) -> set[str]:
        """Delete manifests but the newest, and pieces that none of these names; the hashes of the pieces left."""
        manifests = self._manifests(partition)
        for name in manifests[:-KEPT]:
            self._store.delete(name)
        folder = self._piece(partition, "")
        present = {name.removeprefix(folder) for name in self._store.names(folder)}
        kept = [self._read_manifest(name) for name in manifests[-KEPT:]]
        if None in kept:
            return present  # a damaged manifest may name any piece; leave them all
        named = {digest for checkpoint in kept if checkpoint for digest in checkpoint.pieces.values()}
        for digest in present - named:
            self._store.delete(self._piece(partition, digest))
        return present & named

    def _manifests(self, partition: int) -> list[str]:
        return list(self._store.names(f"{self._prefix}/{partition}/manifests/"))

    def _manifest(self, partition: int, offset: int) -> str:
        return f"{self._prefix}/{partition}/manifests/{offset:020d}.json"

    def _piece(self, partition: int, digest: str) -> str:
        return f"{self._prefix}/{partition}/pieces/{digest}"


def _offset_of(manifest_name: str) -> int:
    return int(manifest_name.rpartition("/")[2].removesuffix(".json"))
