"""Pages of `docs/` that are made from the code: topics, settings, commands. `make docs` writes them, a test compares.

A page that is written by hand falls behind; a page that is generated and compared cannot.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import typer

from runtime.avro_schemas import AvroSchema, history
from runtime.settings import Settings
from schemas import mbo
from schemas.columns import Column, row_dtype
from schemas.envelope import Envelope
from schemas.topics import CATALOGUE
from sinks.tables import TABLES

_ORDER: Final = """
## Headers

ASCII text under fixed names; a number is decimal, and what is absent has no header. Others may be added: pass over what
you do not know. A `kind` that you do not know is an error, since nobody can tell what the message would have done.
"""

_RULE: Final = """
## Order, repeats and holes

Delivery is at least once: after a crash a producer writes again what already stands in the topic, byte for byte. Every
message of bins, trades and bars has its place in its partition, `seq` and `part`, and consumers go by one rule:

| what comes | what to do |
|---|---|
| the place that is expected | take it; after `last` = 1 expect (`seq` + 1, 0), else (`seq`, `part` + 1) |
| a place before it | a repeat: drop it |
| a place after it | a hole: stop, and say which places are missing |

Start anywhere with a `part` of 0, and keep the expected place beside what you make of the messages. `seq` is dense in a
partition, also across instruments; a message without rows has an empty value and still takes its place. On `T.mbo.v1`
`seq` is the offset plus the partition's base in the tape's manifest. The other topics have several producers and no
such places: their records carry an `id`, or a key of which the newest value stands, and a consumer is idempotent by it.

A consumer of 30 lines that does all this, without any package of barograph:
[Python](../examples/02_consume_topic.py), [Java](../examples/ConsumeTopic.java).
"""

_AVRO: Final = """
## Avro records

Values are in Confluent's wire format: a zero byte, the schema's id in four bytes, big endian, then the record. The api
answers the read-only calls of Confluent's schema registry, so serializers and deserializers take its address as it is;
only `auto.register.schemas` must be off. Ids are the same everywhere and never given twice; subjects exist for every
tape (`T`) and each record: [decision 10](decisions/0010-schema-registry.md).

All versions of a schema read each other (FULL_TRANSITIVE): a field may come or go only with a default, and keeps its
type. A set of words that may grow is a string, never an enum.
"""

_NOTE: Final = "<!-- made by `make docs` from the code; edits here are lost -->\n"


def topics_page() -> str:
    """docs/topics.md: every topic, its configuration, its row."""
    lines = ["# Topics\n", _NOTE]
    lines.append("`T` is a tape, `L` a line. `barograph topics apply` makes them as declared here.\n")
    lines.append("| topic | key | value | producer | consumers |\n|---|---|---|---|---|")
    for spec in CATALOGUE:
        row = (f"`{spec.name('T', 'L')}`", spec.key, spec.value, spec.producer, ", ".join(spec.consumers))
        lines.append("| " + " | ".join(row) + " |")
    lines += [_ORDER, "| header | meaning |\n|---|---|", *_headers(), _RULE.rstrip(), _AVRO]
    lines.append("| record | id by version | subjects | file |\n|---|---|---|---|")
    lines += [_record(versions) for versions in history().values()]
    for versions in history().values():
        lines += _fields(versions[-1])
    lines.append("\n## Configuration\n\n| topic | settings |\n|---|---|")
    for spec in CATALOGUE:
        settings = ", ".join(f"`{key}={value}`" for key, value in spec.config().items())
        lines.append(f"| `{spec.name('T', 'L')}` | {settings} |")
    lines.append("\n## Rows\n\nReaders go by a column's name and pass over columns that they do not know; a column of")
    lines.append("another type is an error.\n\n### `mbo`: DBN MBO records, 56 bytes\n")
    lines.append((mbo.__doc__ or "").split("\n\n", 2)[2].strip())
    for table in TABLES.values():
        lines += [] if table.raw else _columns(table.name, table.columns)
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md: every setting, its variable, default and meaning."""
    lines = ["# Settings\n", _NOTE, "An option of the command line wins over the environment, the environment over the"]
    lines.append("default.\n\n| variable | default | meaning |\n|---|---|---|")
    for name, field in Settings.model_fields.items():
        default = str(field.default) or "(empty)"
        lines.append(f"| `BAROGRAPH_{name.upper()}` | `{default}` | {field.description} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """docs/commands.md: every command with its arguments and options."""
    from control.app import app

    lines = ["# Commands\n", _NOTE]
    lines.append("Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 a service is missing.\n")
    for path, command in _commands(typer.main.get_command(app), "barograph"):
        lines.append(f"## `{path}`\n\n{(command.help or '').strip()}\n")
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            lines.append("| parameter | default | meaning |\n|---|---|---|")
            lines += rows
            lines.append("")
    return "\n".join(lines)


def asyncapi_page() -> str:
    """docs/asyncapi.json: the gateway's protocol and the topics."""
    from control.asyncapi import text

    return text()


def _headers() -> list[str]:
    """Rows of a table, from the text of `Envelope`."""
    _, _, attributes = inspect.cleandoc(Envelope.__doc__ or "").partition("Attributes:\n")
    told = re.findall(r"^    (\S[^:]*): (.*)$", attributes, re.MULTILINE)
    return [
        f"| {', '.join(f'`{n}`' for n in names.split(', '))} | {text} |" for names, text in told if names != "other"
    ]


def _record(versions: tuple[AvroSchema, ...]) -> str:
    newest = versions[-1]
    subjects = [newest.record, *(f"{s.name('T', 'L')}-value" for s in CATALOGUE if s.avro == newest.name)]
    ids = ", ".join(f"{v.version}: {v.id}" for v in versions)
    file = f"schemas/avro/{newest.name}.avsc"
    return f"| {newest.record} | {ids} | {', '.join(f'`{s}`' for s in subjects)} | [{file}](../{file}) |"


def _fields(schema: AvroSchema) -> list[str]:
    content = json.loads(schema.text)
    lines = [
        f"\n### `{schema.record}`\n\n{content['doc']}\n",
        "| field | type | default | meaning |\n|---|---|---|---|",
    ]
    for field in content["fields"]:
        kind = field["type"] if isinstance(field["type"], str) else "array of Header: name string, value bytes"
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        lines.append(f"| `{field['name']}` | {kind} | {default} | {field.get('doc', '')} |")
    return lines


def _columns(title: str, columns: tuple[Column, ...]) -> list[str]:
    lines = [f"\n### `{title}`: {row_dtype(columns).itemsize:,} bytes a row\n"]
    lines.append("| column | type | unit | meaning |\n|---|---|---|---|")
    for c in columns:
        kind = f"{c.dtype}[{c.width}]" if c.width else c.dtype
        lines.append(f"| `{c.name}` | {kind} | {c.unit} | {c.doc} |")
    return lines


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{path} {name}")
    elif not command.hidden:
        yield path, command


def _parameter(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    name = ", ".join(f"`{o}`" for o in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else f"`{default}`"
    return f"| {name} | {shown} | {getattr(parameter, 'help', None) or ''} |"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "topics.md": topics_page,
    "settings.md": settings_page,
    "commands.md": commands_page,
    "asyncapi.json": asyncapi_page,
}


def write(folder: Path) -> None:
    """Write every generated page into `folder`."""
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    write(Path("docs"))
