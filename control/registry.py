"""The schema registry of this api: Confluent's read-only calls, answered from the schemas in the repository.

    GET  /subjects · /subjects/S/versions · /subjects/S/versions/V · /subjects/S/versions/V/schema
    POST /subjects/S                                   which version is this schema?
    GET  /schemas/ids/ID · …/schema · …/subjects · …/versions · /schemas/types
    POST /compatibility/subjects/S/versions[/V]        may this schema follow?
    GET  /config[/S] · /mode[/S]

Nothing can be registered: schemas come with a release, each under an id that is fixed for ever. Whatever would change
something is answered as by a registry in read-only mode, code 42205.

A subject is not stored, it is *understood*, so every topic of every tape has one before its first message:

    TOPIC-value        the record of the topic, by its catalogue entry         (TopicNameStrategy, the default)
    RECORD             the record of that full name, such as barograph.Gap     (RecordNameStrategy)
    TOPIC-RECORD       the record if the topic holds it                        (TopicRecordNameStrategy)
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from runtime.avro_schemas import AvroSchema, by_id, fingerprint, history, latest
from runtime.registry_client import CONTENT_TYPE
from schemas.topics import CATALOGUE, find, of_tape

COMPATIBILITY: Final = "FULL_TRANSITIVE"
"""What a test holds every schema to: each version reads and is read by each other, so that producers and consumers of
any two releases may meet on a topic, in whatever order they were upgraded."""

VERSIONS_MAX: Final = 2**31 - 1


class RefusalError(Exception):
    """An answer in the form of the registry's errors.

    Args:
        code: the registry's error code; its first three digits are the HTTP status.
        message: one sentence.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def versions_of(subject: str) -> tuple[AvroSchema, ...]:
    """All versions of a subject, oldest first.

    Raises:
        RefusalError: there is no such subject.
    """
    for versions in history().values():
        if subject == versions[-1].record:
            return versions
    topic, _, held = subject.rpartition("-")
    spec = find(topic)
    if spec is not None and spec.avro and held in ("value", latest(spec.avro).record):
        return history()[spec.avro]
    raise RefusalError(40401, f"Subject '{subject}' not found.")


def version_of(subject: str, version: str) -> AvroSchema:
    """One version of a subject: a number, `latest` or -1.

    Raises:
        RefusalError: no such subject or version, or no version at all.
    """
    versions = versions_of(subject)
    if version in ("latest", "-1"):
        return versions[-1]
    if not (version.isascii() and version.isdecimal() and 0 < int(version) <= VERSIONS_MAX):
        allowed = f'Allowed values are between [1, {VERSIONS_MAX}] and the string "latest"'
        raise RefusalError(42202, f"The specified version '{version}' is not a valid version id. {allowed}")
    if int(version) > len(versions):
        raise RefusalError(40402, f"Version {version} not found.")
    return versions[int(version) - 1]


def same_meaning(subject: str, text: str) -> AvroSchema:
    """The version of a subject that means the same as a schema, the newest first.

    Raises:
        RefusalError: no such subject, no schema, or none means the same.
    """
    wanted = fingerprint(_parsed(text))
    for version in reversed(versions_of(subject)):
        if version.fingerprint == wanted:
            return version
    raise RefusalError(40403, "Schema not found")


def differences(one: str, other: str) -> list[str]:
    """Why two schemas may not follow each other, in either order; empty if they may.

    Raises:
        RefusalError: one of them is no Avro schema.
    """
    from avro.compatibility import ReaderWriterCompatibilityChecker  # slow to import, and few ask
    from avro.errors import AvroException
    from avro.schema import parse

    try:
        parsed = parse(one), parse(other)
    except AvroException as error:
        raise RefusalError(42201, f"Invalid schema: {error}") from error
    found = []
    for reader, writer in (parsed, parsed[::-1]):
        answer = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
        kinds = sorted({kind.value for kind in answer.incompatibilities})
        if kinds:
            places = sorted(answer.locations - {"/"}) or ["/"]
            found.append(f"{', '.join(kinds)} at {', '.join(places)}")
    return found


def subjects(places: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Subject → schema, for the records, the topics of no tape, and each (tape, line): what a list shows."""
    topics = [spec.name() for spec in CATALOGUE if spec.scope == "global"]
    topics += [topic for tape, line in places for topic in of_tape(tape, line)]
    named = {versions[-1].record: name for name, versions in history().items()}
    carried = {f"{t}-value": spec.avro for t in topics if (spec := find(t)) is not None and spec.avro}
    return {**named, **carried}


def install(app: FastAPI, places: Callable[[], Iterable[tuple[str, str]]]) -> list[APIRoute]:
    """Add the calls to an application; their routes.

    Args:
        app: the application.
        places: gives the tapes and lines that exist now.
    """
    router = _router(places)
    app.include_router(router)
    app.add_exception_handler(RefusalError, _refused)
    return [route for route in router.routes if isinstance(route, APIRoute)]


class _Answer(JSONResponse):
    media_type = CONTENT_TYPE


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    return _Answer({"error_code": error.code, "message": error.message}, error.code // 100)


def _router(places: Callable[[], Iterable[tuple[str, str]]]) -> APIRouter:
    router = APIRouter(default_response_class=_Answer)
    _add_subjects(router, places)
    _add_schemas(router, places)
    _add_settings(router)

    @router.api_route("/subjects/{rest:path}", methods=["POST", "PUT", "DELETE"], include_in_schema=False)
    @router.api_route("/config{rest:path}", methods=["POST", "PUT", "DELETE"], include_in_schema=False)
    @router.api_route("/mode{rest:path}", methods=["POST", "PUT", "DELETE"], include_in_schema=False)
    def change(rest: str) -> None:
        """Whatever would change something."""
        raise RefusalError(
            42205, "This registry is in read-only mode: schemas come with a release of barograph, under fixed ids."
        )

    return router


def _add_subjects(router: APIRouter, places: Callable[[], Iterable[tuple[str, str]]]) -> None:
    @router.get("/subjects")
    def list_subjects(subjectPrefix: str = "") -> list[str]:  # noqa: N803  (the interface's spelling)
        return sorted(s for s in subjects(places()) if s.startswith(subjectPrefix))

    @router.post("/subjects/{subject}")
    async def look_up(subject: str, request: Request) -> dict[str, Any]:
        versions_of(subject)
        return _registered(subject, same_meaning(subject, await _schema_in(request)))

    @router.get("/subjects/{subject}/versions")
    def list_versions(subject: str) -> list[int]:
        return [schema.version for schema in versions_of(subject)]

    @router.get("/subjects/{subject}/versions/{version}")
    def one_version(subject: str, version: str) -> dict[str, Any]:
        return _registered(subject, version_of(subject, version))

    @router.get("/subjects/{subject}/versions/{version}/schema")
    def text_of_version(subject: str, version: str) -> Response:
        return Response(version_of(subject, version).text, media_type=CONTENT_TYPE)

    @router.get("/subjects/{subject}/versions/{version}/referencedby")
    def referenced_by(subject: str, version: str) -> list[int]:
        version_of(subject, version)
        return []


def _add_schemas(router: APIRouter, places: Callable[[], Iterable[tuple[str, str]]]) -> None:
    @router.get("/schemas/types")
    def types() -> list[str]:
        return ["AVRO"]

    @router.get("/schemas/ids/{schema_id}")
    def by_number(schema_id: str) -> dict[str, Any]:
        return {"schema": _known(schema_id).text}

    @router.get("/schemas/ids/{schema_id}/schema")
    def text_of_number(schema_id: str) -> Response:
        return Response(_known(schema_id).text, media_type=CONTENT_TYPE)

    @router.get("/schemas/ids/{schema_id}/subjects")
    def subjects_of_number(schema_id: str) -> list[str]:
        name = _known(schema_id).name
        return sorted(subject for subject, carried in subjects(places()).items() if carried == name)

    @router.get("/schemas/ids/{schema_id}/versions")
    def versions_of_number(schema_id: str) -> list[dict[str, Any]]:
        known = _known(schema_id)
        return [{"subject": subject, "version": known.version} for subject in subjects_of_number(schema_id)]


def _add_settings(router: APIRouter) -> None:
    @router.post("/compatibility/subjects/{subject}/versions")
    async def follows_all(subject: str, request: Request, verbose: bool = False) -> dict[str, Any]:
        return _follows(versions_of(subject), await _schema_in(request), verbose)

    @router.post("/compatibility/subjects/{subject}/versions/{version}")
    async def follows_one(subject: str, version: str, request: Request, verbose: bool = False) -> dict[str, Any]:
        return _follows((version_of(subject, version),), await _schema_in(request), verbose)

    @router.get("/config")
    def config() -> dict[str, str]:
        return {"compatibilityLevel": COMPATIBILITY}

    @router.get("/config/{subject}")
    def config_of(subject: str) -> dict[str, str]:
        versions_of(subject)
        return config()

    @router.get("/mode")
    def mode() -> dict[str, str]:
        return {"mode": "READONLY"}

    @router.get("/mode/{subject}")
    def mode_of(subject: str) -> dict[str, str]:
        versions_of(subject)
        return mode()


def _follows(versions: tuple[AvroSchema, ...], text: str, verbose: bool) -> dict[str, Any]:
    messages = [f"version {v.version}: {m}" for v in versions for m in differences(text, v.text)]
    return {"is_compatible": not messages, **({"messages": messages} if verbose else {})}


def _registered(subject: str, schema: AvroSchema) -> dict[str, Any]:
    return {"subject": subject, "version": schema.version, "id": schema.id, "schema": schema.text}


def _known(schema_id: str) -> AvroSchema:
    known = by_id(int(schema_id)) if schema_id.isascii() and schema_id.isdecimal() else None
    if known is None:
        raise RefusalError(40403, f"Schema {schema_id} not found")
    return known


async def _schema_in(request: Request) -> str:
    """The schema that a request's body carries."""
    try:
        body = await request.json()
        text, kind = body["schema"], body.get("schemaType", "AVRO")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RefusalError(42201, 'The body is not of the form {"schema": "…"}') from error
    if kind != "AVRO" or not isinstance(text, str):
        raise RefusalError(42201, "Only Avro schemas are kept here")
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RefusalError(42201, "The schema is not JSON") from error
