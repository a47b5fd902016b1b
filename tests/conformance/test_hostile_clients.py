"""Hostile clients on real sockets: each ends with the right code, memory stays bounded, others notice nothing."""

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from runtime.auth import KNOWN_S_MAX, REREAD_S
from runtime.auth_keys import KeyStore
from runtime.auth_rules import Role
from runtime.object_store import LocalObjectStore
from tests.conformance.gateway_process import HANDSHAKE_S, ORIGIN
from tests.unit.runtime.auth_world import STRANGER, confused, jwks, token, unsigned
from ws_gateway.frames import HEADER, Kind
from ws_gateway.server import TICK_S

ROOT = Path(__file__).parents[2]
GROWTH_BYTES_MAX = 64 << 20
"""More than this at once is what the attacks try to have us hold; the gateway itself breathes by some MiB."""

WHAT = {"stream": "grid", "tape": "synthetic", "instrument": "GLBX.MDP3:ESH4"}


class Gate:
    """The process, and addresses that nobody used before: refusals count against an address."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "jwks.json").write_bytes(jwks())
        self.keys = KeyStore(LocalObjectStore(folder / "state"))
        self.log = (folder / "gateway.log").open("w+")
        argv = [sys.executable, "-m", "tests.conformance.gateway_process", str(folder)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        assert line.strip().isdecimal(), self.written()
        self.port = int(line)
        self._addresses = iter(f"127.0.{a}.{b}" for a in range(1, 250) for b in range(1, 250))

    def written(self):
        self.log.flush()
        return (self.folder / "gateway.log").read_text()

    def address(self):
        return next(self._addresses), 0

    def bearer(self, subject, **known):
        return f"Bearer {token(now_s=int(time.time()), sub=subject, jti=subject, **known)}"

    def dial(self, **known):
        """A client of the library, from an address of its own."""
        sock = socket.create_connection(("127.0.0.1", self.port), 10, self.address())
        return connect(
            f"ws://127.0.0.1:{self.port}{known.pop('path', '/v1/stream')}", sock=sock, subprotocols=["barograph.v1"],
            compression=None, max_size=None, close_timeout=2, **known,
        )  # fmt: skip

    def raw(self, authorization, more=""):
        """A socket after the handshake, for bytes that no library sends; and what the answer said."""
        sock = socket.create_connection(("127.0.0.1", self.port), 10, self.address())
        sock.settimeout(20)
        sock.sendall(
            (
                f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(b'0' * 16).decode()}\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: barograph.v1\r\n"
                + (f"Authorization: {authorization}\r\n" if authorization else "")
                + f"{more}\r\n"
            ).encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        return sock, head.decode()

    def status_bytes(self, name):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(f"{name}:")[1].split()[0]) * 1024

    def forget_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Healthy(threading.Thread):
    """A client that reads everything; it notices a row that is missing or late."""

    def __init__(self, gate):
        super().__init__(daemon=True)
        self.client = gate.dial(additional_headers={"Authorization": gate.bearer("healthy")})
        self.client.send(json.dumps({"op": "subscribe", "id": 1, **WHAT}))
        self.numbers, self.left_out, self.closed = [], 0, False
        self.start()

    def run(self):
        try:
            for message in self.client:
                if isinstance(message, bytes) and message[1] == Kind.BATCH:
                    head = HEADER.unpack_from(message)
                    self.numbers.append(head[4])
                    self.left_out += head[5]
        except ConnectionClosed:
            pass
        self.closed = True

    def sees(self, count, within_s=30):
        """Whether so many more rows come."""
        start, deadline = len(self.numbers), time.monotonic() + within_s
        while len(self.numbers) < start + count and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(self.numbers) >= start + count


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    made = Gate(tmp_path_factory.mktemp("gate"))
    yield made
    made.process.terminate()
    made.process.wait(10)
    made.log.close()
    made.process.stdout.close()


@pytest.fixture(scope="module")
def healthy(gate):
    made = Healthy(gate)
    assert made.sees(2)
    yield made
    made.client.close()


@pytest.fixture(autouse=True)
def others_are_unaffected(gate, healthy):
    """Around every test: the healthy client goes on, nothing is left out, memory has not run away."""
    before = gate.status_bytes("VmRSS")
    gate.forget_peak()
    yield
    assert healthy.sees(3)
    assert not healthy.closed
    assert healthy.left_out == 0
    assert healthy.numbers == list(range(healthy.numbers[0], healthy.numbers[0] + len(healthy.numbers)))
    assert gate.status_bytes("VmHWM") - before < GROWTH_BYTES_MAX
    assert gate.process.poll() is None


def frame(payload, opcode=1, fin=True, rsv1=False, masked=True, length=None):
    """A frame of a client, masked by zeros."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv1 << 6 | opcode])
    mask = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", size)
    return head + (b"\0" * 4 if masked else b"") + payload


def close_code(sock):
    """The code of the close frame that comes; 1006 if the connection ends without one."""
    data = b""
    try:
        while True:
            while len(data) < 2 or len(data) < sum(_sizes(data)):
                more = sock.recv(1 << 16)
                if not more:
                    return 1006
                data += more
            head, size = _sizes(data)
            if data[0] & 15 == 8:
                return struct.unpack(">H", data[head : head + 2])[0]
            data = data[head + size :]
    except OSError:
        return 1006


def _sizes(data):
    """Bytes of a server's frame: head, payload."""
    short = data[1] & 127
    if short < 126:
        return 2, short
    width = 2 if short == 126 else 8
    if len(data) < 2 + width:
        return 2 + width, 1
    return 2 + width, int.from_bytes(data[2 : 2 + width], "big")


def bomb():
    packed = zlib.compressobj(9, wbits=-15)
    return packed.compress(b"\0" * (64 << 20)) + packed.flush(zlib.Z_SYNC_FLUSH)


ATTACKS = {
    "a message too large": ([frame(b"x" * 9000)], {1009}),
    "a message of a terabyte, announced": ([frame(b"x", length=1 << 40)], {1009}),
    "too large in pieces": ([frame(b"x" * 4000, fin=False), *[frame(b"x" * 4000, 0, fin=False)] * 3], {1009}),
    "deep JSON": ([frame(b"[" * 8000)], {1008}),
    "deep objects": ([frame(b'{"a":' * 1600)], {1008}),
    "NaN": ([frame(b'{"op":"subscribe","id":NaN}')], {1008}),
    "infinity": ([frame(b'{"op":"subscribe","id":-Infinity}')], {1008}),
    "a number of many digits": ([frame(b'{"op":"subscribe","id":' + b"9" * 5000 + b"}")], {1008}),
    "a key twice": ([frame(b'{"op":"pause","op":"auth"}')], {1008}),
    "no JSON": ([frame(b"GET / HTTP/1.1")], {1008}),
    "Arrow": ([frame(b"\xff\xff\xff\xff\0\0\0\0", 2)], {1008}),
    "bad UTF-8": ([frame(b'{"op":"\xff\xfe"}')], {1007}),
    "bad UTF-8 in pieces": ([frame(b"\xf0\x9f", fin=False), frame(b"\x28\x8c", 0)], {1007}),
    "half a character": ([frame(b"\xf0\x9f")], {1007}),
    "a deflate bomb": ([frame(bomb(), rsv1=True)], {1002, 1009}),
    "a small deflated message": ([frame(b"\xaa\x56\x2a", rsv1=True)], {1002}),
    "empty fragments without end": ([frame(b"", fin=False)] + [frame(b"", 0, fin=False) * 1000] * 300, {1008}),
    "fragments of a byte": ([frame(b"x", fin=False)] + [frame(b"x", 0, fin=False) * 100] * 20, {1008}),
    "10,000 messages": ([frame(b'{"op":"pause","id":1}') * 1000] * 10, {1008}),
    "10,000 empty messages": ([frame(b"") * 1000] * 10, {1008}),
    "no mask": ([frame(b"{}", masked=False)], {1002}),
    "an unknown opcode": ([frame(b"", 11)], {1002}),
    "a ping too large": ([frame(b"x" * 200, 9)], {1002}),
    "a continuation of nothing": ([frame(b"x", 0)], {1002}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_with_its_code(gate, name):
    pieces, codes = ATTACKS[name]
    sock, head = gate.raw(gate.bearer(name), "Sec-WebSocket-Extensions: permessage-deflate\r\n")
    with closing(sock):
        assert head.startswith("HTTP/1.1 101")
        assert "permessage-deflate" not in head.lower()
        with suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
        assert close_code(sock) in codes


def test_pings_whose_answers_nobody_reads_are_cut(gate):
    sock, _ = gate.raw(gate.bearer("pinger"))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(5)
    flood = frame(b"x" * 125, 9) * 500

    def send_for_ever():
        for _ in range((256 << 20) // len(flood)):
            sock.sendall(flood)

    with closing(sock), pytest.raises(OSError, match=r"reset|[Bb]roken|timed out"):
        send_for_ever()


def test_slow_handshakes_hold_a_socket_and_no_more(gate):
    slow = [socket.create_connection(("127.0.0.1", gate.port), 10, gate.address()) for _ in range(200)]
    start = time.monotonic()
    for sock in slow:
        sock.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n")
    with gate.dial(additional_headers={"Authorization": gate.bearer("in between")}) as client:
        assert json.loads(client.recv(5))["op"] == "hello"
    for sock in slow:
        sock.settimeout(HANDSHAKE_S + 10)
        with closing(sock), suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    assert time.monotonic() - start < HANDSHAKE_S + 12


def test_headers_without_end_are_refused(gate):
    with closing(socket.create_connection(("127.0.0.1", gate.port), 10, gate.address())) as sock:
        sock.settimeout(10)
        with suppress(OSError):
            sock.sendall(b"GET /v1/stream HTTP/1.1\r\n")
            for number in range(200_000):
                sock.sendall(b"X-%d: %s\r\n" % (number, b"y" * 100))
        with suppress(ConnectionResetError):
            answer = sock.recv(4096)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def now():
    return int(time.time())


BAD_TOKENS = {
    "expired": lambda gate: token(now_s=now(), exp=now() - 60),
    "not yet": lambda gate: token(now_s=now(), nbf=now() + 60),
    "forged": lambda gate: token(now_s=now(), key=STRANGER),
    "alg none": lambda gate: unsigned(now_s=now()),
    "confused": lambda gate: confused(now_s=now()),
    "wrong audience": lambda gate: token(now_s=now(), aud="other"),
    "unknown kid": lambda gate: token("stranger", now_s=now()),
    "no role": lambda gate: token(now_s=now(), role="king"),
    "revoked": lambda gate: revoked(gate),
    "unknown key": lambda gate: "bgk_000000000000_aaaa",
    "nonsense": lambda gate: "x" * 3000,
}


def revoked(gate):
    key, text = gate.keys.add("gone", Role.ADMIN, time.time_ns())
    gate.keys.revoke(key.id, time.time_ns())
    time.sleep(1.0)
    return text


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_opens_nothing(gate, name):
    text = BAD_TOKENS[name](gate)
    sock, head = gate.raw(f"Bearer {text}")
    with closing(sock):
        assert head.startswith("HTTP/1.1 401")
    with gate.dial(origin=ORIGIN) as client:
        client.send(json.dumps({"op": "auth", "token": text}))
        bye = json.loads(client.recv(5))
        assert (bye["op"], bye["code"]) == ("bye", 4003)
        with pytest.raises(ConnectionClosed):
            client.recv(5)
        assert client.close_code == 4003
    assert text not in gate.written()


@pytest.mark.parametrize(
    ("more", "authorization", "status"),
    [
        ("Origin: http://evil.example\r\n", True, 403),
        ("Origin: null\r\n", True, 403),
        (f"Origin: {ORIGIN}\r\nOrigin: http://evil.example\r\n", True, 403),
        ("", False, 401),
        (f"Origin: {ORIGIN}\r\n", False, 101),
    ],
)
def test_who_may_open_a_socket(gate, more, authorization, status):
    sock, head = gate.raw(gate.bearer("ann") if authorization else "", more)
    with closing(sock):
        assert head.startswith(f"HTTP/1.1 {status}")


def test_an_address_that_guesses_is_held_off(gate):
    address = gate.address()
    seen = []
    for _ in range(70):
        with closing(socket.create_connection(("127.0.0.1", gate.port), 10, address)) as sock:
            sock.sendall(
                b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n"
                b"Authorization: Bearer bgk_0_0\r\n\r\n"
            )
            seen.append(sock.recv(4096)[9:12].decode())
    assert seen[0] == "401"
    assert seen[-1] == "429"


def test_a_token_in_the_address_is_refused(gate):
    for name in ("token", "access_token", "API_KEY"):
        with closing(socket.create_connection(("127.0.0.1", gate.port), 10, gate.address())) as sock:
            sock.sendall(f"GET /v1/stream?serving=x&{name}=SECRETX HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 400")
    assert "SECRETX" not in gate.written()


def test_without_a_token_in_time_the_socket_closes(gate):
    with gate.dial(origin=ORIGIN) as client:
        client.send(json.dumps({"op": "subscribe", "id": 1, **WHAT}))
        assert json.loads(client.recv(5))["code"] == "unauthenticated"
        assert json.loads(client.recv(8))["code"] == 1008


def test_a_session_ends_with_its_token_unless_it_is_refreshed(gate):
    def short(seconds):
        return token(now_s=now(), sub="short", exp=now() + seconds)

    with gate.dial(origin=ORIGIN) as first, gate.dial(origin=ORIGIN) as second:
        for client in (first, second):
            client.send(json.dumps({"op": "auth", "token": short(4)}))
            assert json.loads(client.recv(5))["op"] == "hello"
        ends_at = time.time() + 4
        second.send(json.dumps({"op": "auth", "token": short(60)}))
        bye = json.loads(first.recv(12))
        assert (bye["op"], bye["code"]) == ("bye", 4003)
        assert time.time() < ends_at + 5
        second.send(json.dumps({"op": "pause", "id": 1}))
        assert json.loads(second.recv(5))["code"] == "unknown_id"


def test_a_revoked_key_ends_its_sessions(gate):
    key, text = gate.keys.add("soon gone", Role.VIEWER, time.time_ns())
    time.sleep(1.0)
    with gate.dial(additional_headers={"Authorization": f"Bearer {text}"}) as client:
        assert json.loads(client.recv(5))["op"] == "hello"
        gate.keys.revoke(key.id, time.time_ns())
        assert json.loads(client.recv(10))["code"] == 4003
    assert REREAD_S + TICK_S < 30
    assert KNOWN_S_MAX <= 30


def test_a_viewer_does_not_replay_and_a_trader_does(gate):
    for role, refused in (("viewer", True), ("trader", False)):
        with gate.dial(additional_headers={"Authorization": gate.bearer(f"a {role}", role=role)}) as client:
            assert json.loads(client.recv(5))["op"] == "hello"
            client.send(json.dumps({"op": "seek", "id": 1, "to": "@5"}))
            assert (json.loads(client.recv(5))["code"] == "forbidden") is refused


def test_metrics_need_a_token_and_health_does_not(gate):
    def get(path, more=""):
        with closing(socket.create_connection(("127.0.0.1", gate.port), 10, gate.address())) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
            return sock.recv(1 << 16).decode()

    assert get("/health").startswith("HTTP/1.1 200")
    assert get("/metrics").startswith("HTTP/1.1 401")
    assert get("/metrics", f"Authorization: {gate.bearer('prom')}\r\n").startswith("HTTP/1.1 200")


def test_what_was_refused_is_written_down_without_secrets(gate):
    for text in (token(now_s=now(), key=STRANGER), token(now_s=now(), exp=5), unsigned(), "bgk_0_0", "nonsense"):
        gate.raw(f"Bearer {text}")[0].close()
    gate.raw(gate.bearer("ann"), "Origin: http://evil.example\r\n")[0].close()
    lines = [line for line in gate.written().splitlines() if '"event": "refused"' in line]
    told = [json.loads(line[line.index("{") :]) for line in lines]
    assert {"forged", "expired", "algorithm", "unknown_key", "malformed", "origin"} <= {t["reason"] for t in told}
    assert all(t["from"].startswith("127.0.") for t in told)
    assert "eyJ" not in gate.written()
    assert "bgk_" not in gate.written()
