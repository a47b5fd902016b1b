"""A schema registry somewhere else: any that speaks Confluent's HTTP interface, named by `BAROGRAPH_REGISTRY_URL`.

Two things are asked of it: the schema of an id that we did not give (`schema`), and to take ours (`control.
registry_publish`). A user and password may stand in the address; they are sent as basic authentication and never shown.
"""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from runtime.endpoints import without_login
from runtime.errors import InputError, MissingServiceError

ANSWER_TIMEOUT_S: Final = 10.0
"""How long an answer may take. A registry answers from memory within milliseconds; a stage waits this long at most once
per unknown id, and leaves below the session time-out of its consumer group."""

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"


class RegistryClient:
    """One registry.

    Args:
        url: its address, `http://host:port` or `https://user:password@host/path`.

    Raises:
        InputError: not such an address.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                "the registry's address is not of the form http://host:port", remedy="correct BAROGRAPH_REGISTRY_URL"
            )
        self.shown = without_login(url).rstrip("/")
        self._headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE}
        if parts.username:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """HTTP status and parsed answer; a refusal is an answer too, `{"error_code": …, "message": …}`.

        Raises:
            MissingServiceError: nobody answers, or what answers is no registry or out of order.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.shown}{path}", data, self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:
                    try:
                        return error.code, json.load(error)
                    except ValueError:
                        raise self._missing(f"status {error.code}") from error
            raise self._missing(f"status {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise self._missing(str(reason).lower()) from error

    def schema(self, schema_id: int) -> str | None:
        """The text of the Avro schema with this id; None if the registry has none.

        Raises:
            MissingServiceError: it does not answer, or refuses.
        """
        status, answer = self.ask("GET", f"/schemas/ids/{schema_id}")
        if status == 404:
            return None
        if status != 200:
            raise self._missing(f"status {status}: {answer.get('message', '')}")
        return str(answer["schema"]) if answer.get("schemaType", "AVRO") == "AVRO" else None

    def _missing(self, reason: str) -> MissingServiceError:
        return MissingServiceError(
            f"the schema registry at {self.shown} does not answer ({reason})",
            remedy="look whether it runs, and at BAROGRAPH_REGISTRY_URL",
        )
