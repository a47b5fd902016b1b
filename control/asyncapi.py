"""The gateway's protocol and the topics as an AsyncAPI 3.0 document, made from the tables that the code runs on.

    messages of clients    operations of the transition table, with the states they lead between; keys of requests
    messages of the server `SERVER_MESSAGES`, which a test holds against what the session says
    binary messages        streams, their fields, defaults and units
    topics                 the catalogue: key, headers, Arrow columns or Avro schema, configuration

So a new stream, field, topic or column is in the document without a line here; a new message of the server is not, and
a test says so. Reference: AsyncAPI specification 3.0.0, bindings `ws` 0.1.0 and `kafka` 0.5.0.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from runtime.auth_rules import RULES
from runtime.avro_schemas import latest
from schemas.columns import Column
from schemas.envelope import Envelope
from schemas.mbo import MBO_DTYPE
from schemas.topics import CATALOGUE, TopicSpec
from sinks.tables import TABLES
from ws_gateway import catalogue, frames, protocol, request
from ws_gateway.strictjson import TEXT_BYTES_MAX

Schema = dict[str, Any]

CURSOR_FORM: Final = "tape/line/stream/instrument/seq.part.row"
_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _id() -> Schema:
    return {
        "type": "integer",
        "minimum": 0,
        "maximum": request.ID_MAX,
        "description": "the subscription, by the client",
    }


KEYS: Final[dict[str, Schema]] = {
    "token": _text("a key or token; again before it ends keeps the session open"),
    "id": _id(),
    "stream": _text("what to see", default="grid"),
    "tape": _text("name of the tape", default="live"),
    "line": _text("line of the tape", default=request.MAIN),
    "instrument": _text("as listed in hello", maxLength=request.INSTRUMENT_CHARS_MAX),
    "fields": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": request.FIELDS_MAX, "uniqueItems": True},
    "radius": {
        "type": "integer",
        "minimum": 1,
        "description": "ticks on each side, of stream grid; the line's if absent",
    },
    "dtype": _text("element type of grid vectors", enum=sorted(frames.DTYPES), default="f32"),
    "max_rate_hz": {"type": "number", "minimum": 0.01, "maximum": request.RATE_MAX_HZ},
    "policy": _text("what a slow reader gets: the newest row and a count, or every row", default="conflate"),
    "from": _text(f"live, a cursor ({CURSOR_FORM}), bin/N or @ns since the epoch", default="live"),
    "clock": _text("subscriptions of one user with the same clock are replayed together"),
    "paused": {
        "type": "boolean",
        "default": False,
        "description": "whether a clock that is made by this stands still until resume or step",
    },
    "digest": {"type": "boolean", "default": False, "description": "whether digests are sent, each 10 s"},
    "to": _text(f"live, a cursor ({CURSOR_FORM}), bin/N or @ns since the epoch"),
    "bins": {"type": "integer", "minimum": 1, "default": 1, "description": "how many bins to go on by"},
    "factor": {
        "oneOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "max"}],
        "description": "event seconds in a second",
    },
}
"""Keys of the messages of clients. One that requests know and this table does not is a string there."""

OP_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "auth": ("token",),
    "seek": ("id", "to"),
    "step": ("id", "bins"),
    "speed": ("id", "factor"),
}
"""Keys of operations beside `subscribe`; the others take the id alone."""

REQUIRED: Final = {
    "auth": ("token",), "subscribe": ("id", "instrument"), "seek": ("id", "to"), "speed": ("id", "factor"),
}  # fmt: skip


class Said(NamedTuple):
    """A message of the server: when it comes, what it must and what it may hold."""

    summary: str
    required: dict[str, Schema]
    optional: dict[str, Schema] = {}  # noqa: RUF012  (never changed)


_OBJECT: Final[Schema] = {"type": "object"}
_NAMES: Final[Schema] = {"type": "array", "items": _TEXT}
_NAMES_BY_TAPE: Final[Schema] = {"type": "object", "additionalProperties": _NAMES}
_FIELD: Final[Schema] = {
    "type": "object", "required": ["name", "unit"], "properties": {"name": _TEXT, "unit": _TEXT},
}  # fmt: skip

SERVER_MESSAGES: Final[dict[str, Said]] = {
    "hello": Said(
        "comes first, once whoever connected is known",
        {
            "protocol": {"const": protocol.PROTOCOL}, "version": {"const": 1}, "tapes": _NAMES,
            "lines": _NAMES_BY_TAPE, "instruments": _NAMES_BY_TAPE, "aliases": _OBJECT, "limits": _OBJECT,
            "streams": _NAMES, "may": _NAMES,
            "heartbeat_s": {"type": "number"},
        },
    ),
    "subscribed": Said(
        "what was agreed; the schema and the rows follow",
        {
            "id": _id(), "from": _TEXT, "cursor": _TEXT, "tape": _TEXT, "line": _TEXT, "tape_id": _TEXT,
            "paused": {"type": "boolean"}, "runtime_config": _OBJECT, "fields": {"type": "array", "items": _FIELD},
        },
    ),
    "position": Said(
        "each second: where the subscription stands", {"id": _id(), "cursor": _TEXT}, {"lag_ms": {"type": "number"}}
    ),
    "stale": Said("nothing came from Kafka, clocks included, for 2 s", {"id": _id(), "age_ms": _COUNT}),
    "gap": Said(
        "rows that there are no more, or never were",
        {"id": _id(), "from": {"type": ["string", "null"]}, "to": _TEXT, "cause": _TEXT, "epoch": {"type": "integer"}},
    ),
    "dropped": Said("rows left out for a slow reader since the last count", {"id": _id(), "count": _COUNT}),
    "error": Said(
        "an operation was refused; the connection goes on",
        {"code": _TEXT, "message": _TEXT}, {"id": _id(), "refused": _TEXT},
    ),
    "bye": Said(
        "the connection is closed with this code", {"code": _COUNT, "reason": _TEXT, "retry_after_ms": _COUNT}
    ),
}  # fmt: skip
"""Everything that the server says in JSON."""

CLOSE_CODES: Final = {
    1007: "a text message that is not UTF-8",
    1008: "an offence: not JSON, binary, too many messages or fragments, no token in time",
    1009: "a message that is too large",
    1012: "the gateway goes away; come back after retry_after_ms",
    4001: "a reader too slow for what it asked for",
    4003: "the token was not accepted, has expired or was revoked",
    4004: "the schema of a subscription changed: connect and subscribe anew",
}


class _Stream(NamedTuple):
    name: str
    fields: Mapping[str, Column]
    defaults: tuple[str, ...]


def _streams() -> list[_Stream]:
    """What may be subscribed to."""
    found = ((name, catalogue.stream(name)) for name in catalogue.names())
    return [_Stream(name, one.fields, one.defaults) for name, one in found]


def client_ops() -> list[str]:
    """Operations that clients may ask for, in order."""
    return sorted(op for op in protocol.CLIENT_OPS if f"ws {op}" in RULES)


@cache
def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    messages = {**_client_messages(), **_server_messages(), **_binary_messages()}
    topics = {spec.stream.replace(".", "_"): spec for spec in CATALOGUE}
    messages |= {f"topic_{name}": _topic_message(spec) for name, spec in topics.items()}
    channels = {"stream": _socket(sorted(m for m in messages if not m.startswith("topic_")))}
    channels |= {f"topic_{name}": _topic(name, spec) for name, spec in topics.items()}
    return {
        "asyncapi": "3.0.0",
        "info": _info(),
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": channels,
        "operations": _operations(topics),
        "components": {
            "messages": messages,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "a key of `barograph keys`, or a JWT"}
            },
        },
    }


def text() -> str:
    """The document as it stands in docs/asyncapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def _info() -> Schema:
    codes = "\n".join(f"- {code}: {why}" for code, why in CLOSE_CODES.items())
    return {
        "title": "barograph",
        "version": version("barograph"),
        "description": f"Live and replayed pressure of order books.\n\nClose codes of the socket:\n{codes}",
        "license": {"name": "Apache-2.0"},
    }


def _servers() -> Schema:
    return {
        "gateway": {
            "host": "127.0.0.1:8761",
            "protocol": "ws",
            "description": f"subprotocol {protocol.PROTOCOL}; a token is needed where authentication is on",
            "security": [{"$ref": "#/components/securitySchemes/bearer"}],
        },
        "kafka": {
            "host": "127.0.0.1:9092",
            "protocol": "kafka",
            "description": "the broker; embedded ones take free ports",
        },
    }


def _socket(names: list[str]) -> Schema:
    return {
        "address": "/v1/stream",
        "servers": [{"$ref": "#/servers/gateway"}],
        "description": f"Text is JSON of at most {TEXT_BYTES_MAX} bytes, control only; binary is data.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {"type": "object", "properties": {"serving": _text("alias or id of a published version")}},
                "bindingVersion": "0.1.0",
            }
        },
    }


def _operations(topics: Mapping[str, TopicSpec]) -> Schema:
    def operation(action: str, channel: str, message: str, summary: str) -> Schema:
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        }

    out = {f"receive_{op}": operation("receive", "stream", op, f"a client asks to {op}") for op in client_ops()}
    out |= {f"send_{op}": operation("send", "stream", op, said.summary) for op, said in SERVER_MESSAGES.items()}
    for name in _binary_messages():
        out[f"send_{name}"] = operation("send", "stream", name, "data of a subscription")
    for name, spec in topics.items():
        out[f"produce_{name}"] = operation("send", f"topic_{name}", "message", f"written by {spec.producer}")
    return out


def _client_messages() -> Schema:
    known = {*KEYS, *request.KEYS} - {"op"}
    asked = tuple(sorted((request.KEYS - {"op"}) & known))
    enums = {"stream": [s.name for s in _streams()]}
    out = {}
    for op in client_ops():
        keys = asked if op == "subscribe" else OP_KEYS.get(op, ("id",))
        properties = {k: {**KEYS.get(k, _TEXT), **({"enum": enums[k]} if k in enums else {})} for k in keys}
        out[op] = {
            "summary": f"client: {op}",
            "payload": _message(op, properties, REQUIRED.get(op, ("id",)), closed=True),
            "x-transitions": list(_transitions(op)),
            "x-roles": sorted(role.value for role in RULES[f"ws {op}"].roles),
        }
    return out


def _transitions(op: str) -> Iterator[Schema]:
    for (phase, track, name), rule in protocol.TABLE.items():
        if name == op:
            yield {
                "session": [phase.value, rule.phase.value],
                "subscription": [track.value, rule.track.value],
            }


def _server_messages() -> Schema:
    return {
        op: {
            "summary": f"server: {said.summary}",
            "payload": _message(op, {**said.required, **said.optional}, said.required),
        }
        for op, said in SERVER_MESSAGES.items()
    }


def _message(op: str, properties: Mapping[str, Schema], required: Any, *, closed: bool = False) -> Schema:
    schema: Schema = {
        "type": "object",
        "required": ["op", *required],
        "properties": {"op": {"const": op}, **properties},
    }
    return {**schema, "additionalProperties": False} if closed else schema


_HEADER: Final = (
    ("version", "u8", f"{frames.VERSION}"),
    ("kind", "u8", ", ".join(f"{kind.value} {kind.name.lower()}" for kind in frames.Kind)),
    ("flags", "u16", ", ".join(f"{flag.value} {(flag.name or '').lower()}" for flag in frames.Flag if flag)),
    ("id", "u32", "the subscription"),
    ("number", "u64", "+1 for each message of the subscription"),
    ("left_out", "u32", "bins left out by conflation since the previous one"),
    ("age_us", "u32", "from arrival of the newest record to this send, microseconds; 0 in replays"),
)
"""The bytes before every payload, little-endian, in order: `frames.HEADER`."""


def _binary_messages() -> Schema:
    about = (
        "24 bytes of header, then an Arrow IPC encapsulated message. The schema comes first; the payloads of one "
        "subscription, put one after another, are an Arrow IPC stream."
    )
    header = [{"name": name, "type": kind, "meaning": meaning} for name, kind, meaning in _HEADER]
    return {
        f"rows_{stream.name}": {
            "summary": f"server: rows of {stream.name}",
            "description": about,
            "contentType": "application/vnd.apache.arrow.stream",
            "payload": {"type": "object", "properties": {n: _column(c) for n, c in stream.fields.items()}},
            "x-header": header,
            "x-default-fields": list(stream.defaults),
        }
        for stream in _streams()
    }


_JSON_TYPES: Final = {"f": "number", "i": "integer", "u": "integer", "S": "string"}


def _column(column: Column) -> Schema:
    kind = column.dtype if isinstance(column.dtype, str) else str(column.dtype)
    element: Schema = {"type": "string" if kind == "text" else _JSON_TYPES.get(kind[0], "string")}
    shape: Schema = {"type": "array", "items": element} if column.width else element
    return {**shape, "description": column.doc, "x-type": kind, "x-unit": column.unit}


def _topic(name: str, spec: TopicSpec) -> Schema:
    address = spec.name("{tape}", "{line}")
    told = {"tape": "name of the tape", "line": "line of the tape"}
    config = spec.config()
    return {
        "address": address,
        "servers": [{"$ref": "#/servers/kafka"}],
        "description": f"{spec.value}. Read by {', '.join(spec.consumers)}.",
        "parameters": {n: {"description": about} for n, about in told.items() if f"{{{n}}}" in address},
        "messages": {"message": {"$ref": f"#/components/messages/topic_{name}"}},
        "bindings": {
            "kafka": {
                "topicConfiguration": {
                    "cleanup.policy": [config["cleanup.policy"]],
                    "retention.ms": int(config["retention.ms"]),
                    "retention.bytes": int(config["retention.bytes"]),
                    "max.message.bytes": int(config["max.message.bytes"]),
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _topic_message(spec: TopicSpec) -> Schema:
    return {
        "summary": spec.value,
        "contentType": _content_type(spec),
        "headers": _headers(),
        "payload": _payload(spec),
        "bindings": {"kafka": {"key": _text(spec.key), "bindingVersion": "0.5.0"}},
    }


def _content_type(spec: TopicSpec) -> str:
    if spec.rooted:
        return "application/octet-stream" if spec.scope == "tape" else "application/vnd.apache.arrow.stream"
    return "application/vnd.confluent.avro"


def _payload(spec: TopicSpec) -> Schema:
    if not spec.rooted:
        schema = json.loads(latest(spec.avro).text)
        return {"schemaFormat": "application/vnd.apache.avro;version=1.9.0", "schema": schema}
    if spec.scope == "tape":
        fields = [(str(name), MBO_DTYPE[str(name)].str.lstrip("<|")) for name in MBO_DTYPE.names or ()]
        properties = {n: {"type": _JSON_TYPES.get(kind[0], "string"), "x-type": kind} for n, kind in fields}
        return {"type": "array", "items": {"type": "object", "properties": properties}}
    columns = {c.name: _column(c) for c in TABLES[spec.stream].columns}
    return {"type": "array", "items": {"type": "object", "required": list(columns), "properties": columns}}


def _headers() -> Schema:
    """Headers of every message, from the text of `Envelope`."""
    _, _, attributes = inspect.cleandoc(Envelope.__doc__ or "").partition("Attributes:\n")
    told = re.findall(r"^    (\S[^:]*): (.*)$", attributes, re.MULTILINE)
    named = {name.strip(): about for names, about in told for name in names.split(",") if name.strip() != "other"}
    return {"type": "object", "properties": {name: _text(about) for name, about in named.items()}}
