"""Options that many commands share, declared once, and how they become settings."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from runtime.errors import InputError, UsageError
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest as TapeManifest
from runtime.tapes import TapeStore
from schemas.bins import CELL_NS_DEFAULT
from schemas.mbo import RECORDS_PER_BLOCK_MAX
from schemas.names import is_name
from schemas.units import PRICE_SCALE

CELL_NS_MIN = 1_000
CELL_NS_MAX = 86_400 * PRICE_SCALE
"""Widths that the engine takes: below a microsecond nothing is left of a bin, a day is the longest session."""

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Data = Annotated[Path | None, typer.Option("--data", help="folder of everything embedded; default: .barograph")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap-servers", help="Kafka brokers; default: the embedded one")]
ClickHouse = Annotated[str | None, typer.Option("--clickhouse-url", help="ClickHouse over HTTP; default: embedded")]
Lake = Annotated[str | None, typer.Option("--lake-url", help="Parquet lake: folder or s3://…; default: in --data")]
Tape = Annotated[str, typer.Option("--tape", help="name of the tape")]
MaybeTape = Annotated[str | None, typer.Option("--tape", help="name of the tape; default: the first file's")]
Line = Annotated[str, typer.Option("--line", help="configuration of the derived stages")]
ReadTape = Annotated[str, typer.Option("--tape", help="name of the tape, or an alias")]
ReadLine = Annotated[str | None, typer.Option("--line", help="line of the tape; default: the alias's, or main")]
Tick = Annotated[str | None, typer.Option("--tick", help="tick size in currency; default: known or found")]
Speed = Annotated[str, typer.Option("--speed", help="`max`, or a multiple of real time such as 1x or 50x")]
Files = Annotated[list[Path], typer.Argument(help="DBN files of MBO records, .dbn or .dbn.zst")]
Partitions = Annotated[int | None, typer.Option("--partitions", min=1, max=1024, help="of a new tape; default: 1")]
BlockRecords = Annotated[
    int | None,
    typer.Option("--block-records", min=1, max=RECORDS_PER_BLOCK_MAX, help="of a raw message at most; default: 4096"),
]
File = Annotated[Path, typer.Argument(help="a DBN file, .dbn or .dbn.zst")]
Manifest = Annotated[Path | None, typer.Option("--manifest", help="manifest.json that the files must match")]
Replace = Annotated[bool, typer.Option("--replace", help="make the tape again if it exists; its old data is deleted")]
Port = Annotated[int | None, typer.Option("--port", help="port; 0 takes a free one")]


def settings(**given: Any) -> Settings:
    """Settings from options; what is None comes from the environment or the default.

    Raises:
        UsageError: a value is not of its kind or out of its range.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(
            f"setting {name} cannot be {first['input']!r}: {first['msg'].lower()}",
            remedy=f"correct the option, or the variable BAROGRAPH_{name.upper()}",
        ) from error


def place(given: Settings, tape: str, line: str | None) -> tuple[TapeManifest, str]:
    """The tape and line that a reading command means; aliases are followed.

    Raises:
        InputError: there is no such tape, alias or line.
    """
    return TapeStore(object_store_at(given.state_location)).resolve(tape, line)


def tick_px(text: str | None) -> int | None:
    """A tick size as written by a person, in 1e-9; None if none was given.

    Raises:
        InputError: not a positive decimal of at most nine places.
    """
    from connectors.instruments import tick_px_of_option

    return None if text is None else tick_px_of_option(text)


def speed(text: str) -> float:
    """A replay speed: infinite for `max`, else a multiple of real time.

    Raises:
        InputError: neither.
    """
    from connectors.pacer import parse_speed

    return parse_speed(text)


def cell_ns(text: str) -> int:
    """A cell width such as `100ms`, `1s` or `250us`, in ns.

    Raises:
        UsageError: anything else.
    """
    for unit, scale in (("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", PRICE_SCALE)):
        number = text.removesuffix(unit)
        if text.endswith(unit) and number.isascii() and number.isdecimal():
            if CELL_NS_MIN <= int(number) * scale <= CELL_NS_MAX:
                return int(number) * scale
            raise UsageError(f"--cell {text} is out of range", remedy="use 1us to 86400s")
    raise UsageError(f"--cell {text} is no width", remedy=f"write for example {CELL_NS_DEFAULT // 1_000_000}ms or 1s")


def legal(kind: str, name: str) -> str:
    """A tape or line name as given.

    Raises:
        InputError: not of the allowed letters.
    """
    if not is_name(name):
        raise InputError(f"{name!r} cannot name a {kind}", remedy="use up to 40 of a-z, 0-9 and '-'")
    return name
