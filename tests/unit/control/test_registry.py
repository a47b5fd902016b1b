"""The read-only registry, without a socket: subjects, versions, lookups, refusals."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.api import create_app
from control.registry import RefusalError, differences, versions_of
from runtime.object_store import LocalObjectStore
from runtime.tapes import Line, TapeStore, new_tape
from tests.unit.runtime.schema_histories import OURS, release, write

GAP = (OURS / "gap.avsc").read_text()


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    """`ask(method, path, body)` → status and parsed answer, of an api with tape t1 and its lines main and alt."""
    tape = new_tape("t1", lines={"main": Line("r"), "alt": Line("s")})
    TapeStore(LocalObjectStore(tmp_path / "state")).save(tape)
    app = create_app(gateway_url=lambda: None, state=tmp_path / "state")

    async def sent(method: str, path: str, body: Any) -> tuple[int, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            answer = await client.request(method, path, content=content)
            assert answer.headers["content-type"].startswith("application/vnd.schemaregistry.v1+json")
            return answer.status_code, answer.json()

    return lambda method, path, body=None: asyncio.run(sent(method, path, body))


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("t.gaps.v1-value", "gap"),
        ("any-tape-42.mbo.v1-value", "definition"),
        ("t.dead_letters.v1-value", "dead_letter"),
        ("ops.tapes.v1-value", "tape"),
        ("ops.runs.v1-value", "cutover"),
        ("barograph.Gap", "gap"),
        ("t.gaps.v1-barograph.Gap", "gap"),
        ("ops.runs.v1-barograph.Cutover", "cutover"),
    ],
)
def test_a_subject_is_understood_for_any_tape(subject: str, name: str) -> None:
    assert [v.name for v in versions_of(subject)] == [name]


@pytest.mark.parametrize(
    "subject",
    ["", "-value", "t.gaps.v1", "t.gaps.v1-key", "t.main.bins.v1-value", "t.gaps.v2-value", "T.gaps.v1-value",
     "ops.gaps.v1-value", "t.main.gaps.v1-value", "barograph.Header", "t.gaps.v1-barograph.Tape", "x-value"],
)  # fmt: skip
def test_other_subjects_do_not_exist(subject: str) -> None:
    with pytest.raises(RefusalError) as caught:
        versions_of(subject)
    assert (caught.value.code, caught.value.message) == (40401, f"Subject '{subject}' not found.")


def test_subjects_of_the_tapes_that_exist_are_listed(ask: Any) -> None:
    status, listed = ask("GET", "/subjects")
    assert status == 200
    assert "t1.gaps.v1-value" in listed
    assert "barograph.DeadLetter" in listed
    assert "ops.tapes.v1-value" in listed
    assert not [s for s in listed if "bins" in s]
    assert ask("GET", "/subjects?subjectPrefix=t1.g") == (200, ["t1.gaps.v1-value"])
    assert ask("GET", "/schemas/ids/3/subjects") == (200, ["barograph.Gap", "t1.gaps.v1-value"])
    assert ask("GET", "/schemas/ids/5/versions")[1][0] == {"subject": "barograph.Cutover", "version": 1}


def test_versions_and_ids(ask: Any) -> None:
    registered = {"subject": "barograph.Gap", "version": 1, "id": 3, "schema": GAP}
    for version in ("1", "latest", "-1"):
        assert ask("GET", f"/subjects/barograph.Gap/versions/{version}") == (200, registered)
    assert ask("GET", "/subjects/x.gaps.v1-value/versions") == (200, [1])
    assert ask("GET", "/schemas/ids/3") == (200, {"schema": GAP})
    assert ask("GET", "/schemas/ids/3/schema") == (200, json.loads(GAP))
    assert ask("GET", "/subjects/barograph.Gap/versions/1/schema") == (200, json.loads(GAP))
    assert ask("GET", "/subjects/barograph.Gap/versions/1/referencedby") == (200, [])
    assert ask("GET", "/schemas/types") == (200, ["AVRO"])
    assert (
        ask("GET", "/config") == ask("GET", "/config/barograph.Gap") == (200, {"compatibilityLevel": "FULL_TRANSITIVE"})
    )
    assert ask("GET", "/mode") == ask("GET", "/mode/barograph.Gap") == (200, {"mode": "READONLY"})


def test_old_versions_stay_for_ever(ask: Any, tmp_path: Path) -> None:
    old = json.loads(GAP)
    new = {**old, "fields": [*old["fields"], {"name": "more", "type": "string", "default": ""}]}
    with release(write(tmp_path / "schemas", {"gap": [(3, old), (9, new)]})):
        assert ask("GET", "/subjects/barograph.Gap/versions") == (200, [1, 2])
        assert ask("GET", "/subjects/barograph.Gap/versions/latest")[1]["id"] == 9
        assert ask("GET", "/schemas/ids/3")[1] == {"schema": json.dumps(old)}
        assert ask("POST", "/subjects/t.gaps.v1-value", {"schema": GAP})[1]["id"] == 3
        assert ask("POST", "/subjects/t.gaps.v1-value", {"schema": json.dumps(new)})[1]["version"] == 2
    assert ask("GET", "/schemas/ids/9")[0] == 404


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/subjects/nobody-value/versions", 40401),
        ("/config/nobody", 40401),
        ("/subjects/barograph.Gap/versions/2", 40402),
        ("/subjects/barograph.Gap/versions/0", 42202),
        ("/subjects/barograph.Gap/versions/x", 42202),
        ("/subjects/barograph.Gap/versions/99999999999", 42202),
        ("/schemas/ids/77", 40403),
        ("/schemas/ids/x", 40403),
    ],
)
def test_what_is_not_there_is_answered_as_a_registry_does(ask: Any, path: str, code: int) -> None:
    status, answer = ask("GET", path)
    assert (status, answer["error_code"]) == (code // 100, code)
    assert set(answer) == {"error_code", "message"}


def test_a_lookup_goes_by_meaning(ask: Any) -> None:
    schema = json.loads(GAP)
    del schema["doc"]
    assert ask("POST", "/subjects/t.gaps.v1-value?normalize=false", {"schema": json.dumps(schema)})[1]["id"] == 3
    schema["fields"][0]["type"] = "bytes"
    refused = (404, {"error_code": 40403, "message": "Schema not found"})
    assert ask("POST", "/subjects/t.gaps.v1-value", {"schema": json.dumps(schema)}) == refused
    assert ask("POST", "/subjects/nobody", {"schema": GAP})[1]["error_code"] == 40401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"schema": 1}', b'{"schema": "{"}',
                                  b'{"schema": "{}", "schemaType": "JSON"}'])  # fmt: skip
def test_a_body_without_a_schema_is_refused(ask: Any, body: bytes) -> None:
    assert ask("POST", "/subjects/barograph.Gap", body)[1]["error_code"] == 42201


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/subjects/barograph.Gap/versions"),
        ("POST", "/subjects/new/versions?normalize=false"),
        ("DELETE", "/subjects/barograph.Gap"),
        ("DELETE", "/subjects/barograph.Gap/versions/1"),
        ("PUT", "/config"),
        ("PUT", "/config/barograph.Gap"),
        ("DELETE", "/config/barograph.Gap"),
        ("PUT", "/mode/barograph.Gap?force=true"),
        ("PUT", "/mode"),
    ],
)
def test_nothing_can_be_changed(ask: Any, method: str, path: str) -> None:
    status, answer = ask(method, path, {"schema": GAP})
    assert (status, answer["error_code"]) == (422, 42205)
    assert "read-only" in answer["message"]


def test_compatibility_is_judged_both_ways(ask: Any) -> None:
    schema = json.loads(GAP)
    fields = schema["fields"]
    path = "/compatibility/subjects/barograph.Gap/versions"
    schema["fields"] = [*fields, {"name": "more", "type": "string", "default": ""}]
    assert ask("POST", path, {"schema": json.dumps(schema)}) == (200, {"is_compatible": True})
    schema["fields"] = [*fields, {"name": "more", "type": "string"}]
    expected = ["version 1: reader_field_missing_default_value at /fields/12"]
    answer = {"is_compatible": False, "messages": expected}
    assert ask("POST", f"{path}/latest?verbose=true", {"schema": json.dumps(schema)}) == (200, answer)
    assert ask("POST", path, {"schema": '{"type": "what"}'})[1]["error_code"] == 42201
    assert differences('"int"', '"int"') == []
