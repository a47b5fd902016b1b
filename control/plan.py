"""What `run` does about a tape that may already be there. A pure decision; `pipeline` carries it out.

| the tape | `--replace` | decision |
|---|---|---|
| does not exist | any | CREATE |
| exists | yes | REPLACE |
| was being deleted when that was interrupted | any | REPLACE |
| of other files | no | refused |
| finished and the line complete, same files | no | REPORT: from topics, store and lake, under the run they carry |
| unfinished, same files, same run | no | RESUME |
| unfinished, same files, another run | no | refused: a new line, or the tape again |
"""

from collections.abc import Sequence
from enum import Enum

from runtime.errors import InputError
from runtime.tapes import Manifest, Source


class Decision(Enum):
    """What to do with the tape."""

    CREATE = "create"
    REPLACE = "replace"
    RESUME = "resume"
    REPORT = "report"


def decide(
    existing: Manifest | None, tape: str, line: str, sources: Sequence[Source], run: str, *, replace: bool
) -> Decision:
    """Decide by the table above.

    Args:
        existing: the tape's manifest, None if there is no such tape.
        tape, line: what the user named.
        sources: the files to be run, in order; compared by content, not by name.
        run: the run that this release and configuration would give.
        replace: whether the user allows an existing tape to be made again.

    Raises:
        InputError: the tape holds something else, or was begun by another run.
    """
    if existing is None:
        return Decision.CREATE
    if replace or existing.state == "deleted":
        return Decision.REPLACE
    if [s.sha256 for s in existing.sources] != [s.sha256 for s in sources]:
        names = ", ".join(s.name for s in existing.sources) or "a live feed"
        raise InputError(
            f"tape {tape} already holds {names}", remedy="add --replace to make it again, or give another --tape"
        )
    known = existing.lines.get(line)
    if existing.state == "finished" and known is not None and known.complete:
        return Decision.REPORT
    if known is not None and known.run != run:
        raise InputError(
            f"line {line} of tape {tape} was begun by run {known.run}, this release is run {run}",
            remedy=f"add --replace to make the tape again, --line NEW for a new line, or hand this one over with "
            f"`barograph tape cutover {tape} --line {line}`",
        )
    return Decision.RESUME
