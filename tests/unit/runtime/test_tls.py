"""The certificate of gateway and api: what can be served with, how it is renewed, and clients that check it."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import barograph
from runtime.errors import InputError
from runtime.settings import Settings
from runtime.tls import CertificateError, ServerTls, open_tls
from tests.browser.synthetic import SyntheticFeeder
from tests.unit.runtime.tls_world import write_pair
from ws_gateway.server import Gateway


def shown(tls: ServerTls, ca: Path) -> str:
    """The name in the certificate that a new connection is shown."""
    near, far = socket.socketpair()
    client = ssl.create_default_context(cafile=str(ca))

    async def main() -> str:
        loop = asyncio.get_running_loop()
        serving = loop.connect_accepted_socket(asyncio.Protocol, far, ssl=tls.context)
        asking = loop.create_connection(asyncio.Protocol, sock=near, ssl=client, server_hostname="127.0.0.1")
        (here, _), (there, _) = await asyncio.gather(asking, serving)
        subject = here.get_extra_info("peercert")["subject"]
        assert here.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        here.abort()
        there.abort()
        return str(subject[0][0][1])

    return asyncio.run(main())


def test_without_files_there_is_no_tls_and_half_a_pair_is_refused(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    assert open_tls(Settings()) is None
    assert open_tls(Settings(tls_cert=str(cert), tls_key=str(key))) is not None
    for half in ({"tls_cert": str(cert)}, {"tls_key": str(key)}):
        with pytest.raises(InputError, match="without its key"):
            open_tls(Settings(**half))


def test_files_that_cannot_be_served_with_are_one_sentence(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    (tmp_path / "other").mkdir()
    _, another = write_pair(tmp_path / "other")
    (tmp_path / "locked").mkdir()
    locked = write_pair(tmp_path / "locked", passphrase=b"secret")
    words = tmp_path / "words.pem"
    words.write_text("not a certificate")
    for pair, told in (
        ((tmp_path / "none.pem", key), "no such file"),
        ((cert, another), "key values mismatch"),
        ((words, key), "pem|no start line|no certificate"),
        (locked, "passphrase"),
    ):
        with pytest.raises(CertificateError, match=told) as caught:
            ServerTls(*pair)
        assert "\n" not in str(caught.value)
        assert str(pair[0]) in str(caught.value)


def test_a_renewed_certificate_is_shown_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = write_pair(tmp_path, "first.test")
    tls = ServerTls(cert, key)
    old = tmp_path / "old.pem"
    old.write_bytes(cert.read_bytes())
    assert shown(tls, cert) == "first.test"
    assert not tls.look()
    key.write_text("half written")
    os.utime(key, ns=(1, 1))
    assert not tls.look()
    assert "the certificate of before is served" in caplog.text
    assert shown(tls, old) == "first.test"
    write_pair(tmp_path, "second.test")
    assert tls.look()
    assert shown(tls, cert) == "second.test"


def test_the_client_reaches_a_gateway_whose_certificate_it_can_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = write_pair(tmp_path)

    async def main() -> None:
        feeder, stop, ready = SyntheticFeeder(period_s=0, history=3), asyncio.Event(), asyncio.Future[int]()
        gateway = Gateway(feeder, ["https://127.0.0.1:8760"])
        tls = ServerTls(cert, key)
        task = asyncio.create_task(gateway.run("127.0.0.1", 0, stop, ready.set_result, tls.context))
        url = f"wss://127.0.0.1:{await ready}/v1/stream"
        try:
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            async with barograph.connect(url) as client:
                stream = client.subscribe("grid", tape="synthetic", instrument="GLBX.MDP3:ESH4", start="bin/0")
                seen = 0
                async for frame in stream:
                    assert frame.to_arrow().num_rows >= 1
                    seen += frame.to_arrow().num_rows
                    if seen >= 8:  # the first three are old, the others come while nobody else wants anything
                        break
                    if seen >= 3:
                        await asyncio.sleep(0.05)
                        feeder.publish()
            monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
            with pytest.raises(Exception, match=r"(?i)certificate"):
                async with barograph.connect(url, patience_s=0):
                    pass
            monkeypatch.delenv("SSL_CERT_FILE")
            with pytest.raises(Exception):  # noqa: B017, PT011  (any of a handshake's failures: nobody speaks TLS here)
                async with barograph.connect(url.replace("wss", "ws"), patience_s=0):
                    pass
        finally:
            stop.set()
            await task

    asyncio.run(main())


def test_the_api_answers_over_https_and_says_so(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    env = {**os.environ, "BAROGRAPH_TLS_CERT": str(cert), "BAROGRAPH_TLS_KEY": str(key)}
    words = (sys.executable, "-m", "control.cli", "api", "--port", "0", "--data", str(tmp_path / "data"), "--json")
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = next(line for line in process.stdout if "https://" in line)
            address = told[told.index("https://") :].split('"')[0]
            checked = ssl.create_default_context(cafile=str(cert))
            with urllib.request.urlopen(f"{address}/health", context=checked) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
    broken = {**env, "BAROGRAPH_TLS_KEY": str(cert)}
    told = subprocess.run(words, env=broken, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 2
    assert "TLS cannot be served with" in told.stderr
    assert "Traceback" not in told.stderr
