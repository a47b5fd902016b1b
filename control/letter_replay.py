"""`dlq replay`: computing again what dead letters kept out, on a new line or on a new tape, never on the old one.

The skips of a line are part of its input: every row since then was made without those messages. So nothing is put back
into a line. Where the *code* was at fault, a new line of this release reads the raw topic again from the start; the old
line's skips do not apply to it. Where the *bytes* were at fault, a new tape gets them corrected.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.dead_letters import Letter, find, read_letters, unique
from control.output import Output
from control.pipeline import only_one
from control.tape_admin import TapeAdmin
from control.tape_copy import TapeCopy
from runtime.errors import InputError, UsageError
from runtime.settings import Settings
from runtime.tapes import Line, Manifest, new_tape
from schemas.topics import MBO
from streams.run_id import run_id

ALL = "all"
"""In place of an id: every letter of the raw topic that is not replaced."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user decided about single letters; the others stay as they are.

    Attributes:
        replaced: beginning of an id → file with the bytes that take the value's place.
        left_out: beginnings of ids, or `all`.
    """

    replaced: Mapping[str, Path]
    left_out: tuple[str, ...] = ()


def to_line(settings: Settings, servers: str, manifest: Manifest, line: str, new: str) -> dict[str, Any]:
    """Register a line with another line's configuration, computed by this release from the tape's start.

    Raises:
        InputError: the line exists, or its name is not legal.
    """
    if new in manifest.lines:
        raise InputError(f"tape {manifest.tape} has a line {new} already", remedy="give --to-line a new name")
    config = manifest.require_line(line).config
    run = run_id(config)
    TapeAdmin(settings, servers).open(manifest, new, Line(run, config))
    same = run == manifest.lines[line].run
    return {"tape": manifest.tape, "line": new, "run": run, "from_line": line, "same_run": same}


def to_tape(
    settings: Settings, servers: str, manifest: Manifest, line: str, new: str, choice: Choice, out: Output
) -> dict[str, Any]:
    """Copy a tape with corrected messages; the same command again goes on after an interruption.

    Raises:
        InputError: a letter or file is not fit, or the new tape exists and is something else.
        UsageError: nothing would be changed.
    """
    letters = unique(read_letters(servers, manifest), line)
    edits = edits_of(letters, choice, MBO.name(manifest.tape))
    if not edits:
        raise UsageError(
            "no letter is replaced or left out, so the new tape would equal the old one",
            remedy="add --replace-value ID=FILE or --leave-out ID, or take --to-line",
        )
    with only_one(new, settings):
        copy, admin = TapeCopy(servers, manifest, edits), TapeAdmin(settings, servers)
        out.note(f"reading {manifest.tape}")
        made = new_tape(
            new,
            partitions=manifest.partitions,
            instruments=manifest.instruments,
            sources=copy.sources(),
            blocking=manifest.blocking,
        )
        existing = admin.tapes.load(new)
        if existing is not None and (existing.sources != made.sources or existing.state != "open"):
            raise InputError(f"there is a tape {new} already", remedy="give --to-tape a new name")
        config = manifest.require_line(line).config
        target = admin.open(existing or made, line, Line(run_id(config), config))
        out.note(f"writing {new}")
        written = copy.publish(new)
        if manifest.state == "finished":
            target = admin.finish(target)
    kept = sum(letter.topic == MBO.name(manifest.tape) for letter in letters) - len(edits)
    replaced = sum(value is not None for value in edits.values())
    counts = {"replaced": replaced, "left_out": len(edits) - replaced, "kept": kept}
    return {"tape": new, "line": line, "state": target.state, "messages": written, **counts}


def edits_of(letters: list[Letter], choice: Choice, topic: str) -> dict[tuple[int, int], bytes | None]:
    """What a choice changes on the raw topic: (partition, offset) → new bytes, or None to leave it out.

    Raises:
        InputError: an id is not known, the letter is of a derived topic, or a file cannot be read.
    """
    edits: dict[tuple[int, int], bytes | None] = {}
    raw = [letter for letter in letters if letter.topic == topic]
    for beginning in choice.left_out:
        for letter in raw if beginning == ALL else [find(letters, beginning)]:
            edits[_place(letter, topic)] = None
    for beginning, path in choice.replaced.items():
        try:
            edits[_place(find(letters, beginning), topic)] = path.read_bytes()
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise InputError(f"{path}: {reason}", remedy="give the file with the corrected bytes") from error
    return edits


def _place(letter: Letter, topic: str) -> tuple[int, int]:
    if letter.topic != topic:
        raise InputError(
            f"letter {letter.id[:12]} is of {letter.topic}, which a stage made, so its bytes cannot be given anew",
            remedy="use --to-line: the stages make it again from the raw topic",
        )
    return letter.partition, letter.offset
