"""Confluent's own client and serializers against our registry; our values and schemas against one of someone else."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from control.cli import _look_in
from control.registry_publish import RegistryRefusedError, publish
from runtime.avro_schemas import UnknownSchemaError, history
from runtime.codec import decode_avro, encode_avro
from runtime.errors import InputError, MissingServiceError
from runtime.object_store import LocalObjectStore
from runtime.registry_client import RegistryClient
from runtime.tapes import Line, TapeStore, new_tape
from tests.unit.runtime.schema_histories import OURS, release

TOPIC = "es-2023.gaps.v1"
CONTEXT = SerializationContext(TOPIC, MessageField.VALUE)
GAP = {"id": "a", "instrument": "V:S", "line": "", "stage": "books", "topic": TOPIC, "partition": 0, "seq_from": 4,
       "seq_to": 9, "ts_from": -1, "ts_to": -1, "cause": "ü", "epoch": 2}  # fmt: skip
TEXT = (OURS / "gap.avsc").read_text()


@pytest.fixture
def client(api: str) -> Any:
    with SchemaRegistryClient({"url": api}) as client:
        yield client


@pytest.mark.parametrize(
    "strategy", [{}, {"subject.name.strategy": record_subject_name_strategy}], ids=["topic", "record"]
)
@pytest.mark.parametrize(
    ("schema", "latest"),
    [(None, True), (TEXT, True), (TEXT, False), (json.dumps(json.loads(TEXT)), False)],
    ids=["latest", "latest and own", "own", "own, spelled differently"],
)
def test_confluents_serializer_and_ours_write_the_same_bytes(
    client: Any, schema: str | None, latest: bool, strategy: dict[str, Any]
) -> None:
    if schema is None and strategy:
        schema = TEXT  # the record's name comes from the schema
    config = {"auto.register.schemas": False, "use.latest.version": latest, **strategy}
    value = AvroSerializer(client, schema, conf=config)(GAP, CONTEXT)
    assert value == encode_avro("gap", GAP)
    assert decode_avro("gap", value) == GAP


@pytest.mark.parametrize("schema", [None, TEXT])
def test_confluents_deserializer_reads_what_we_write(client: Any, schema: str | None) -> None:
    assert AvroDeserializer(client, schema)(encode_avro("gap", GAP), CONTEXT) == GAP


def test_every_schema_is_served_to_confluents_client(client: Any) -> None:
    for versions in history().values():
        for version in versions:
            assert client.get_schema(version.id).schema_str == version.text
            registered = client.lookup_schema(version.record, Schema(version.text, "AVRO"))
            assert (registered.schema_id, registered.version) == (version.id, version.version)
            assert client.get_latest_version(version.record).schema_id == versions[-1].id
            assert client.get_versions(version.record) == [v.version for v in versions]
            assert client.get_version(version.record, version.version).schema_id == version.id
    assert set(client.get_subjects()) > {"barograph.Gap", "ops.tapes.v1-value"}
    assert client.get_config().compatibility_level == "FULL_TRANSITIVE"
    assert client.get_compatibility() == "FULL_TRANSITIVE"
    assert client.get_global_mode() == client.get_mode("barograph.Gap") == "READONLY"
    assert client.test_compatibility(f"{TOPIC}-value", Schema(TEXT, "AVRO"))
    assert not client.test_compatibility(f"{TOPIC}-value", Schema((OURS / "tape.avsc").read_text(), "AVRO"))


def test_registering_is_refused_in_the_registrys_own_words(client: Any) -> None:
    with pytest.raises(SchemaRegistryError) as caught:
        client.register_schema(f"{TOPIC}-value", Schema(TEXT, "AVRO"))
    assert (caught.value.http_status_code, caught.value.error_code) == (422, 42205)
    with pytest.raises((SchemaRegistryError, SerializationError)):
        AvroSerializer(client, TEXT)(GAP, CONTEXT)  # registers by default
    with pytest.raises(SchemaRegistryError) as caught:
        client.get_latest_version("nobody-value")
    assert (caught.value.http_status_code, caught.value.error_code) == (404, 40401)


# ---- a registry of someone else


MORE = json.loads(TEXT)
MORE["fields"].append({"name": "severity", "type": "int", "default": 0})


@pytest.fixture
def others(elsewhere: Any) -> Any:
    """The registry of someone whose producers have one field more than ours; this process looks there."""
    with release(OURS):  # undone afterwards
        _look_in(elsewhere.url)
        yield elsewhere


def foreign_value(registry: Any) -> bytes:
    """A gap as someone else's producer writes it; its schema is registered there under an id that we never gave."""
    with SchemaRegistryClient({"url": registry.url}) as client:
        value = bytes(AvroSerializer(client, json.dumps(MORE))({**GAP, "severity": 5}, CONTEXT))
    assert value[:5] == b"\0\0\0\0\x65"
    registry.asked.clear()
    return value


def test_a_value_with_an_unknown_id_is_read_by_its_writers_schema_which_is_fetched_once(others: Any) -> None:
    value = foreign_value(others)
    assert [decode_avro("gap", value) for _ in range(3)] == [GAP] * 3
    assert others.asked == [("GET", "/schemas/ids/101", None)]


def test_our_own_ids_are_never_asked_for(others: Any) -> None:
    others.schemas[3] = '"int"'
    assert decode_avro("gap", encode_avro("gap", GAP)) == GAP
    assert others.asked == []


def test_an_id_that_is_nowhere_or_no_avro_is_an_unknown_schema(others: Any) -> None:
    with pytest.raises(UnknownSchemaError) as caught:
        decode_avro("gap", b"\0\0\0\0\x4e")
    assert caught.value.schema_id == 78


def test_a_registry_that_does_not_answer_is_a_missing_service_and_no_bad_message(others: Any) -> None:
    """A stage dead-letters bad messages; for this it must wait or leave, and read the message later."""
    value = foreign_value(others)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    _look_in(f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(
        MissingServiceError, match=rf"^the schema registry at http://127.0.0.1:{port} does not answer \("
    ) as e:
        decode_avro("gap", value)
    assert "secret" not in str(e.value)
    assert not isinstance(e.value, InputError)
    _look_in(others.url)
    assert decode_avro("gap", value) == GAP


def test_a_password_in_the_address_is_sent_and_other_addresses_are_refused(others: Any) -> None:
    _look_in(others.url.replace("//", "//me:p%40ss@"))
    with pytest.raises(UnknownSchemaError):
        decode_avro("gap", b"\0\0\0\0\x4e")
    assert others.asked[-1][2] == "Basic bWU6cEBzcw=="
    for url in ("file:///etc/passwd", "registry:8081", "http://"):
        with pytest.raises(InputError, match="the registry's address is not of the form"):
            RegistryClient(url)


def test_our_schemas_are_put_there_under_our_ids_and_a_second_time_changes_nothing(elsewhere: Any) -> None:
    registry = RegistryClient(elsewhere.url)
    ids = publish(registry, "es-2023", "main")
    assert ids["es-2023.gaps.v1-value"] == ids["barograph.Gap"] == 3
    assert {n: v[-1].id for n, v in history().items()}.items() <= {
        "definition": ids["es-2023.mbo.v1-value"], "tape": ids["ops.tapes.v1-value"], "gap": 3,
        "dead_letter": ids["es-2023.dead_letters.v1-value"], "cutover": ids["ops.runs.v1-value"],
        "event": ids["es-2023.events.v1-value"],
    }.items()  # fmt: skip
    assert elsewhere.modes == {}
    before = json.dumps([elsewhere.schemas, elsewhere.subjects])
    elsewhere.asked.clear()
    assert publish(registry, "es-2023", "main") == ids
    assert json.dumps([elsewhere.schemas, elsewhere.subjects]) == before
    assert not [path for method, path, _ in elsewhere.asked if method == "PUT"]
    with SchemaRegistryClient({"url": elsewhere.url}) as client:
        config = {"auto.register.schemas": False}
        assert AvroSerializer(client, TEXT, conf=config)(GAP, CONTEXT) == encode_avro("gap", GAP)
        assert AvroDeserializer(client)(encode_avro("gap", GAP), CONTEXT) == GAP


def test_an_id_that_is_taken_there_is_refused_before_anything_is_written(elsewhere: Any) -> None:
    elsewhere.schemas[4] = '"string"'
    with pytest.raises(RegistryRefusedError, match=r"barograph.DeadLetter under id 4 .*/contexts/.barograph$"):
        publish(RegistryClient(elsewhere.url), "es-2023", "main")
    assert (elsewhere.subjects, elsewhere.modes) == ({}, {})


def test_a_subject_that_has_our_schema_under_another_id_is_refused(elsewhere: Any) -> None:
    elsewhere.register("barograph.Gap", {"schema": TEXT})
    with pytest.raises(RegistryRefusedError, match="it has it under id 101"):
        publish(RegistryClient(elsewhere.url), "es-2023", "main")


def barograph(registry_url: str, *args: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "control.cli", *map(str, args)],
        env={**os.environ, "BAROGRAPH_REGISTRY_URL": registry_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.real
def test_topics_apply_puts_the_schemas_into_the_registry(kafka: str, elsewhere: Any, tmp_path: Path) -> None:
    TapeStore(LocalObjectStore(tmp_path / "state")).save(new_tape("applied", lines={"main": Line("r")}))
    where = ("--tape", "applied", "--bootstrap-servers", kafka, "--data", tmp_path)
    done = barograph(elsewhere.url, "topics", "apply", *where)
    assert done.returncode == 0, done.stderr
    assert f"are in the registry at {elsewhere.url}" in done.stderr.replace("\n", " ")
    done = barograph(elsewhere.url, "topics", "apply", *where, "--json")
    assert "applied.gaps.v1" in json.loads(done.stdout), done.stderr
    assert elsewhere.subjects["applied.gaps.v1-value"] == {1: 3}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = barograph(f"http://127.0.0.1:{port}", "topics", "apply", *where)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr


def test_an_address_that_is_none_is_one_sentence() -> None:
    done = barograph("registry:8081", "topics", "show", "gaps")
    assert done.returncode == 2
    assert done.stderr.startswith("barograph: the registry's address is not of the form"), done.stderr
