"""Making, changing and deleting tapes: manifest, topics, announcement, and everything that was derived from them."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Final

from control.claims import Claim, held_slots, is_locked, lake_right
from control.services import open_store
from control.topic_admin import TopicAdmin
from runtime.codec import encode_avro
from runtime.errors import InputError
from runtime.kafka import CheckedProducer
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Line, Manifest, TapeStore
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.topics import TAPES, of_tape
from sinks.ddl import drop_tape as drop_rows
from sinks.lake import drop_tape as drop_objects
from sinks.progress import drop_progress

log = logging.getLogger(__name__)

WORKERS_TIMEOUT_S: Final = 20.0
"""How long to wait for the workers of a tape that is to be deleted. `up` looks at tapes every 2 s, and stops workers
within some seconds; longer, someone else works on it and will not stop."""

TIMEOUT_S: Final = 30.0
"""For the announcement to be confirmed; a broker that answers at all does so within a second."""


class TapeAdmin:
    """The tapes of one data folder on one cluster.

    Args:
        settings: where state and lake are.
        bootstrap_servers: the cluster.
    """

    def __init__(self, settings: Settings, bootstrap_servers: str) -> None:
        self._settings, self._servers = settings, bootstrap_servers
        self._topics = TopicAdmin(bootstrap_servers)
        self.tapes = TapeStore(object_store_at(settings.state_location))

    def open(self, manifest: Manifest, line: str, run: Line) -> Manifest:
        """Make the topics of a tape and line, note the line and the topics' ids, save and announce.

        Returns:
            The manifest as saved.

        Raises:
            InputError: a topic exists with another partition count, or the name is that of an alias.
        """
        self.tapes.refuse_alias(manifest.tape)
        ids = self._topics.apply(manifest.tape, line, manifest.partitions)
        known = replace(manifest, topic_ids={**manifest.topic_ids, **ids})
        known = known.with_line(line, run)
        self.save(known)
        return known

    def finish(self, manifest: Manifest) -> Manifest:
        """Note that the `end` of every instrument was published; lines that were added meanwhile stay."""
        finished = replace(self.tapes.load(manifest.tape) or manifest, state="finished")
        self.save(finished)
        return finished

    def complete(self, manifest: Manifest, line: str) -> Manifest:
        """Note that everything of a finished tape has arrived on a line."""
        known = self.tapes.load(manifest.tape) or manifest
        done = known.with_line(line, replace(known.require_line(line), complete=True))
        self.save(done)
        return done

    def hand_over(self, manifest: Manifest, line: str, to_run: str) -> Manifest:
        """Note that another run computes a line from here on."""
        known = self.tapes.load(manifest.tape) or manifest
        done = known.with_line(line, replace(known.require_line(line), run=to_run, complete=False))
        self.save(done)
        return done

    def delete(self, manifest: Manifest, store_url: str) -> None:
        """Delete a tape: rows, lake objects, states, topics, and last the manifest, so that a repeat can go on.

        Raises:
            FolderInUseError: its objects are being joined or deleted.
            InputError: somebody still works on it after `WORKERS_TIMEOUT_S`.
        """
        with self.rewriting(manifest):
            self.save(replace(manifest, state="deleted"))
            with self.alone(manifest):
                self._drop(manifest, store_url)

    def _drop(self, manifest: Manifest, store_url: str) -> None:
        with closing(open_store(store_url)) as client:
            drop_rows(client, manifest.tape)
        lake = object_store_at(self._settings.lake_location)
        drop_objects(lake, manifest.tape)
        drop_progress(lake, manifest.tape_id)
        states = object_store_at(self._settings.state_location)
        for kind in ("checkpoints", "skips", "attempts", "cutovers"):
            for name in list(states.names(f"{kind}/{manifest.tape_id}/")):
                states.delete(name)
        for folder in ("checkpoints", "skips", "attempts", "cutovers", "arrival", "sinks/*"):
            for path in self._settings.state_dir.glob(f"{folder}/{manifest.tape_id}"):
                shutil.rmtree(path, ignore_errors=True)
        names = {name for line in (*manifest.lines, "main") for name in of_tape(manifest.tape, line)}
        self._topics.delete(sorted(names))
        self._announce(manifest, "deleted")
        self.tapes.delete(manifest.tape)

    @contextmanager
    def rewriting(self, manifest: Manifest) -> Iterator[None]:
        """The right to rewrite or delete a tape's objects in the lake.

        Raises:
            FolderInUseError: somebody joins or deletes them.
        """
        right = lake_right(self._settings.state_dir, manifest)
        right.acquire()
        try:
            yield
        finally:
            right.release()

    @contextmanager
    def alone(self, manifest: Manifest) -> Iterator[None]:
        """The exclusive right to work on a tape: nobody has workers on it, and nobody starts some meanwhile.

        Raises:
            InputError: somebody still works on it after `WORKERS_TIMEOUT_S`.
        """
        claims = [Claim(self._settings.state_dir, manifest, line) for line in manifest.lines]
        try:
            self._wait_until_nobody_works(manifest, claims)
            yield
        finally:
            for claim in claims:
                claim.release()

    def _wait_until_nobody_works(self, manifest: Manifest, claims: Sequence[Claim]) -> None:
        """`up` stops the workers of a deleted tape; what one of them writes after we deleted would stay for ever."""
        state_dir = self._settings.state_dir
        locks = [p for p in state_dir.glob(f"sinks/*/{manifest.tape_id}/**/.*.lock") if p.is_file()]
        deadline_s = time.monotonic() + WORKERS_TIMEOUT_S
        while (
            not all(claim.take() for claim in claims)
            or held_slots(state_dir, manifest)
            or any(is_locked(path) for path in locks)
        ):
            if time.monotonic() > deadline_s:
                raise InputError(
                    f"tape {manifest.tape} is still being worked on", remedy="stop that process, then try again"
                )
            time.sleep(0.2)

    def save(self, manifest: Manifest) -> None:
        """Write a manifest, here and over its copy in the lake, and announce it."""
        self.tapes.save(manifest)
        self._save_copy(manifest)
        self._announce(manifest, manifest.state)

    def _save_copy(self, manifest: Manifest) -> None:
        """Bring the lake's copy up to date, if the lake has one of this tape; its sink makes the first.

        A lake that is away must not keep a tape from ending: its sink brings the copy up to date when it starts again.
        """
        try:
            lake = TapeStore(object_store_at(self._settings.lake_location))
            held = lake.load(manifest.tape)
            if held is not None and held.tape_id == manifest.tape_id:
                lake.save(manifest)
        except OSError as error:
            log.warning("the lake's copy of the manifest of %s stays as it was: %s", manifest.tape, error)

    def _announce(self, manifest: Manifest, state: str) -> None:
        value = encode_avro(
            "tape",
            {
                "tape": manifest.tape,
                "tape_id": manifest.tape_id,
                "state": state,
                "partitions": manifest.partitions,
                "manifest": manifest.to_json(),
            },
        )
        envelope = Envelope("definition", "tape", count=1, crc32=crc32(value))
        producer = CheckedProducer(self._servers, timeout_s=TIMEOUT_S)
        producer.send(Outgoing(TAPES.name(), 0, manifest.tape, value, envelope))
        producer.flush()
