"""How tapes, lines, instruments, topics and cursors are spelled. One spelling, one parser, everywhere.

- A *tape* is an isolated set of topics: `[a-z0-9-]{1,40}`. A *line* is one configuration of the derived stages on it.
- An *instrument* is `VENUE:SYMBOL` in the venue's own spelling, e.g. `GLBX.MDP3:ESH4`.
- A topic is `TAPE.STREAM.vN` or `TAPE.LINE.STREAM.vN`; topics of no tape are `ref.*` and `ops.*`.
- A *cursor* names one row of one stream for ever: `tape/line/stream/instrument/seq.part.row`, instrument
  percent-encoded (RFC 3986, every reserved character), line `-` for the raw stream `mbo`.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

TAPE_CHARS_MAX: Final = 40
"""Characters of a tape or line name. Kafka ends topic names at 249; two names, a stream and a version fit."""

RESERVED: Final = frozenset({"ref", "ops"})
"""First words of topics that belong to no tape; a tape of that name could collide with them."""

_NAME = re.compile(rf"[a-z0-9-]{{1,{TAPE_CHARS_MAX}}}")
_CURSOR = re.compile(r"(?P<tape>[^/]+)/(?P<line>[^/]+)/(?P<stream>[^/]+)/(?P<ins>[^/]+)/(?P<at>[0-9]+\.[0-9]+\.[0-9]+)")


def is_name(text: str) -> bool:
    """Whether `text` may name a tape or a line."""
    return bool(_NAME.fullmatch(text)) and text not in RESERVED


def tape_of_file(file_name: str) -> str:
    """The tape name that a file gets when none is given: its name without DBN suffixes, made legal.

    Lower case; every other character becomes `-`; at most 40 characters.
    """
    stem = re.sub(r"(\.dbn)?(\.zst)?$", "", file_name.lower())
    name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:TAPE_CHARS_MAX].strip("-")
    return name if is_name(name) else "tape"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The place of one row.

    Attributes:
        tape, line, stream, instrument: where; line is `-` for `mbo`.
        seq: number of the root message in the raw topic.
        part: message among those of this seq.
        row: row within the message, from 0.
    """

    tape: str
    line: str
    stream: str
    instrument: str
    seq: int
    part: int
    row: int

    def __str__(self) -> str:
        where = f"{self.tape}/{self.line}/{self.stream}/{quote(self.instrument, safe='')}"
        return f"{where}/{self.seq}.{self.part}.{self.row}"


def parse_cursor(text: str) -> Cursor:
    """The cursor that `text` spells.

    Raises:
        ValueError: not of the form `tape/line/stream/instrument/seq.part.row`.
    """
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a cursor; write tape/line/stream/instrument/seq.part.row")
    seq, part, row = (int(n) for n in match["at"].split("."))
    return Cursor(match["tape"], match["line"], match["stream"], unquote(match["ins"]), seq, part, row)
