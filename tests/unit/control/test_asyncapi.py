"""The AsyncAPI document: whole, well-formed, and true to what session, frames and topics do."""

import ast
import json
from pathlib import Path

import pytest

from control.asyncapi import _HEADER, CLOSE_CODES, SERVER_MESSAGES, client_ops, document
from schemas.topics import CATALOGUE
from ws_gateway import frames, protocol, request
from ws_gateway.protocol import CLIENT_OPS, TABLE

ROOT = Path(__file__).parents[3]
SCHEMA_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
ALLOWED = {
    "": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "channel": {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "bindings"},
    "operation": {"action", "channel", "title", "summary", "description", "security", "messages", "bindings", "reply"},
    "message": {"headers", "payload", "contentType", "name", "title", "summary", "description", "tags", "bindings"},
    "server": {"host", "protocol", "protocolVersion", "pathname", "description", "title", "variables", "security"},
    "parameter": {"enum", "default", "description", "examples", "location"},
}
"""Names that AsyncAPI 3.0.0 knows in each object; others begin with `x-`."""


@pytest.fixture(scope="module")
def made():
    return document()


def refs(node):
    if isinstance(node, dict):
        for key, child in node.items():
            if key == "$ref":
                yield child
            else:
                yield from refs(child)
    elif isinstance(node, list):
        for child in node:
            yield from refs(child)


def follow(made, ref):
    assert ref.startswith("#/")
    node = made
    for part in ref[2:].split("/"):
        node = node[part]
    return node


def strange(kind, node):
    return {name for name in node if not name.startswith("x-")} - ALLOWED[kind]


def test_every_reference_leads_somewhere(made):
    found = list(refs(made))
    assert len(found) > 50
    assert all(follow(made, ref) is not None for ref in found)


def test_objects_hold_only_what_the_specification_names(made):
    assert strange("", made) == set()
    assert {"title", "version"} <= set(made["info"])
    for server in made["servers"].values():
        assert strange("server", server) == set()
        assert {"host", "protocol"} <= set(server)
    for channel in made["channels"].values():
        assert strange("channel", channel) == set()
        assert all(strange("parameter", p) == set() for p in channel.get("parameters", {}).values())
        assert all(f"{{{name}}}" in channel["address"] for name in channel.get("parameters", {}))
    for operation in made["operations"].values():
        assert strange("operation", operation) == set()
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert all(m["$ref"].startswith(f"{channel}/messages/") for m in operation["messages"])
    for message in made["components"]["messages"].values():
        assert strange("message", message) == set()
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_payloads_are_json_schemas_or_avro(made):
    def check(schema):
        if "schemaFormat" in schema:
            assert schema["schema"]["type"] == "record"
            return
        kinds = schema.get("type", [])
        assert set([kinds] if isinstance(kinds, str) else kinds) <= SCHEMA_TYPES
        assert set(schema.get("required", [])) <= set(schema.get("properties", {}))
        for child in schema.get("properties", {}).values():
            check(child)
        if "items" in schema:
            check(schema["items"])

    for message in made["components"]["messages"].values():
        check(message["payload"])


def test_every_operation_of_clients_is_there_with_its_states(made):
    assert set(client_ops()) == set(CLIENT_OPS)
    for op in CLIENT_OPS:
        message = made["components"]["messages"][op]
        assert message["payload"]["properties"]["op"] == {"const": op}
        assert len(message["x-transitions"]) == sum(1 for _, _, name in TABLE if name == op)
        assert message["x-roles"]
    assert set(made["components"]["messages"]["subscribe"]["payload"]["properties"]) == set(request.KEYS)


def said_in_code():
    """Names of messages that the gateway's code builds."""
    found = set()
    for path in (ROOT / "ws_gateway").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_say":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found |= {
                    v.value
                    for k, v in pairs
                    if isinstance(k, ast.Constant) and k.value == "op" and isinstance(v, ast.Constant)
                }
    return found


def test_every_message_of_the_server_is_there_and_no_other():
    assert said_in_code() == set(SERVER_MESSAGES)


def test_every_close_code_is_told():
    ours = {value for name, value in vars(protocol.Code).items() if name.isupper()}
    assert ours | {1007} == set(CLOSE_CODES)


def test_the_header_is_the_one_that_is_packed():
    kinds = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
    assert "<" + "".join(kinds[kind] for _, kind, _ in _HEADER) == frames.HEADER.format


def test_every_stream_and_topic_is_there_with_units(made):
    messages = made["components"]["messages"]
    for name in messages["subscribe"]["payload"]["properties"]["stream"]["enum"]:
        fields = messages[f"rows_{name}"]["payload"]["properties"]
        assert set(messages[f"rows_{name}"]["x-default-fields"]) <= set(fields)
        assert all({"x-type", "x-unit"} <= set(f) for f in fields.values())
    addresses = {c["address"] for c in made["channels"].values()}
    assert {spec.name("{tape}", "{line}") for spec in CATALOGUE} < addresses
    assert "x-unit" in messages["topic_trades"]["payload"]["items"]["properties"]["px"]
    assert "seq" in messages["topic_bins"]["headers"]["properties"]


def test_what_a_session_says_is_as_described(made):
    """Messages of a real session against their schemas, as far as required keys and types go."""
    from ws_gateway.fanout import Hub, Instant

    session = protocol.Session(Hub(), Instant(0, 0))
    session.receive('{"op":"pause","id":3}', Instant(1, 1))
    session.drain(Instant(2, 2))
    texts = []
    while isinstance(message := session.next_message(Instant(3, 3)), str):
        texts.append(json.loads(message))
    assert [t["op"] for t in texts] == ["bye"]
    other = protocol.Session(Hub(), Instant(0, 0))
    other.receive('{"op":"pause","id":3}', Instant(1, 1))
    while isinstance(message := other.next_message(Instant(3, 3)), str):
        texts.append(json.loads(message))
    assert {t["op"] for t in texts} == {"bye", "hello", "error"}
    for text in texts:
        schema = made["components"]["messages"][text["op"]]["payload"]
        assert set(schema["required"]) <= set(text) <= set(schema["properties"])
