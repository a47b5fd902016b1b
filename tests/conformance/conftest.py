"""Registries on real sockets: ours, and one that takes schemas as Confluent's does."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import uvicorn

from control.api import create_app


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    """Address of our api."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(gateway_url=lambda: None, state=tmp_path / "state")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()


class Elsewhere:
    """A registry of someone else, in memory, for the calls that barograph makes.

    It gives ids from 101 on by itself. In mode IMPORT it takes the id and version that the caller names, unless the id
    is another schema's; that mode must be asked for.
    """

    def __init__(self) -> None:
        self.schemas: dict[int, str] = {}
        self.subjects: dict[str, dict[int, int]] = {}
        self.modes: dict[str, str] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and body of the answer."""
        if match := re.fullmatch(r"/schemas/ids/(\d+)", path):
            text = self.schemas.get(int(match[1]))
            return (200, {"schema": text}) if text else (404, {"error_code": 40403, "message": "Schema not found"})
        if match := re.fullmatch(r"/mode/([^/]+)", path):
            if method == "DELETE":
                return 200, {"mode": self.modes.pop(match[1])}
            self.modes[match[1]] = body["mode"]
            return 200, body
        if match := re.fullmatch(r"/subjects/([^/]+)(/versions)?", path):
            return self.register(match[1], body) if match[2] else self.look_up(match[1], body["schema"])
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def look_up(self, subject: str, text: str) -> tuple[int, Any]:
        for version, number in self.subjects.get(subject, {}).items():
            if json.loads(self.schemas[number]) == json.loads(text):
                return 200, {"subject": subject, "id": number, "version": version, "schema": text}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def register(self, subject: str, body: Any) -> tuple[int, Any]:
        if ("id" in body) != (self.modes.get(subject) == "IMPORT"):
            return 422, {"error_code": 42205, "message": f"Subject {subject} is not in import mode"}
        number = body.get("id", 101 + len(self.schemas))
        if self.schemas.setdefault(number, body["schema"]) != body["schema"]:
            return 422, {"error_code": 42207, "message": f"Overwrite new schema with id {number} is not permitted"}
        versions = self.subjects.setdefault(subject, {})
        versions[body.get("version", len(versions) + 1)] = number
        return 200, {"id": number}


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """Such a registry, listening at `url`; `asked` keeps method, path and authorization of every request."""
    registry = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(size)) if size else None
            path = unquote(urlsplit(self.path).path)
            registry.asked.append((self.command, path, self.headers.get("Authorization")))
            status, answer = registry.answer(self.command, path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield registry
    server.shutdown()
    thread.join(10)
    server.server_close()
