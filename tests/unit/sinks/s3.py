"""An S3 server that fails when it is told to: moto's, behind a layer that answers 500 or 503, also after the work."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from runtime.object_store import RemoteObjectStore

KEYS = {"access_key_id": "k", "secret_access_key": "not-to-be-shown", "region": "us-east-1"}

Fault = Callable[[str, str], str]
"""(method, path) → `""`, `before`: 500 and nothing done, `busy`: 503 and nothing done, or `after`: done and then 500.
It may take its time, as a server does that does not answer."""


class S3Server:
    """A bucket `bucket` over real HTTP; `fault` says what happens to each request."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.client.create_bucket(Bucket="bucket")

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def store(self, prefix: str) -> RemoteObjectStore:
        options = {"allow_http": True}
        return RemoteObjectStore(f"s3://bucket/{prefix}", endpoint=self.url, client_options=options, **KEYS)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, f"{path}?{environ['QUERY_STRING']}"))
        kind = self.fault(method, path)
        if kind in ("", "after"):
            answer = list(self._app(environ, (lambda *_: None) if kind else start_response))
            if not kind:
                return answer
        elif environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        status = "503 Slow Down" if kind == "busy" else "500 Internal Server Error"
        start_response(status, [("Content-Type", "text/plain")])
        return [b"it does not feel like it"]
