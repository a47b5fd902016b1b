"""Clients for the bench `gateway`: a process that opens sockets, reads frames, and says when it has them all.

It is driven by lines of JSON on its standard input and answers each with one line, so that what it costs is not counted
as the server's. It parses WebSocket frames by hand and throws them away; of its first socket it keeps a hash of the
Arrow payloads, by which the bench knows that the right bytes came.
"""

import json
import selectors
import socket
import subprocess
import sys
import time
from hashlib import sha256
from typing import Any, Final, Self

BUFFER_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 24
BATCH: Final = 1
BINARY: Final = 2
PING: Final = 9
HANDSHAKE: Final = (
    "GET /v1/stream HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: barograph.v1\r\n\r\n"
)


def masked(text: str) -> bytes:
    """A text frame as clients send it, with a mask of zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data


class Flow:
    """One socket and what came over it.

    Attributes:
        frames: batches so far.
        first_s: monotonic time of the first of them; 0 before.
        begun_s: monotonic time at which connecting began.
    """

    def __init__(self, sock: socket.socket, *, keep: bool) -> None:
        self.sock, self.frames, self.first_s, self.begun_s = sock, 0, 0.0, 0.0
        self.hash = sha256() if keep else None
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: memoryview) -> None:
        """Take bytes; whole payloads are looked at only where they are kept."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        self._buffer += data[self._skip :]
        self._skip = 0
        while self._take_frame():
            pass

    def look(self, have: bytearray, start: int, end: int) -> bool:
        """Look at a binary frame, as far as it came, with its payload at `start:end`; False if more must come first."""
        if have[start + 1] != BATCH:
            return True
        if self.hash is not None:
            if len(have) < end:
                return False
            self.hash.update(have[start + HEADER_BYTES : end])
        self.frames += 1
        self.first_s = self.first_s or time.monotonic()
        return True

    def _take_frame(self) -> bool:
        """Take one frame of the buffer as soon as what is looked at is there; the rest of it is passed over."""
        have = self._buffer
        if len(have) >= 2 and have[0] & 15 == PING:
            return self._answer_ping()
        if len(have) < 14:
            return False
        small = have[1] & 127
        start = 2 if small < 126 else 4 if small == 126 else 10
        end = start + (small if small < 126 else int.from_bytes(have[2:start], "big"))
        if have[0] & 15 == BINARY and not self.look(have, start, end):
            return False
        self._skip = max(0, end - len(have))
        del have[:end]
        return not self._skip

    def _answer_ping(self) -> bool:
        end = 2 + self._buffer[1]
        if len(self._buffer) < end:
            return False
        self.sock.send(bytes([0x8A, 0x80 | self._buffer[1]]) + bytes(4) + self._buffer[2:end])
        del self._buffer[:end]
        return True


class Reader:
    """All sockets of the process."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._flows: list[Flow] = []
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def connect(self, port: int, count: int, subscribe: str | None, within_s: float = 0.0) -> dict[str, Any]:
        """Open sockets one after another; with a subscription as WebSocket clients, else bare."""
        begin_s = time.monotonic()
        for number in range(count):
            if within_s:
                self._poll(max(0.0, begin_s + within_s * number / count - time.monotonic()))
            begun_s = time.monotonic()
            sock = socket.create_connection(("127.0.0.1", port), timeout=60)
            flow = Flow(sock, keep=not self._flows)
            flow.begun_s = begun_s
            if subscribe is not None:
                sock.sendall(HANDSHAKE.encode())
                if not within_s:
                    after_handshake(sock)
            self._flows.append(flow)
            sock.setblocking(False)
            if subscribe is not None:
                if within_s:
                    after_handshake(sock, patient=True)
                sock.send(masked(subscribe))
            self._selector.register(sock, selectors.EVENT_READ, flow)
            if number % 16 == 0:
                self._poll(0)  # pings want answers, however long connecting takes
        return {"connected": len(self._flows), "seconds": time.monotonic() - begin_s}

    def read(self, frames: int, seconds: float = 120.0) -> dict[str, Any]:
        """Read until every socket has so many frames in all."""
        deadline_s = time.monotonic() + seconds
        while any(flow.frames < frames for flow in self._flows):
            if time.monotonic() > deadline_s:
                return {"error": f"only {min(f.frames for f in self._flows)} of {frames} frames came"}
            self._poll(1.0)
        first = self._flows[0].hash
        waits = [flow.first_s - flow.begun_s for flow in self._flows]
        return {"hash": first.hexdigest() if first else "", "first_frame_s": waits}

    def close(self) -> dict[str, Any]:
        """Close every socket."""
        for flow in self._flows:
            self._selector.unregister(flow.sock)
            flow.sock.close()
        self._flows = []
        return {}

    def _poll(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            count = key.fileobj.recv_into(self._buffer)  # type: ignore[union-attr]
            if count == 0:
                raise ConnectionError("the server closed a connection")
            key.data.feed(self._buffer[:count])


def after_handshake(sock: socket.socket, *, patient: bool = False) -> None:
    """Read the answer up to its end, byte by byte: frames may follow at once."""
    if patient:
        sock.setblocking(True)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    if patient:
        sock.setblocking(False)
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        raise ConnectionError(answer.split(b"\r\n", 1)[0].decode(errors="replace"))


class Readers:
    """The process, as the bench holds it; a context."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "control.bench.gateway_readers"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin is not None, "it was opened with pipes"
        self._process.stdin.close()
        self._process.wait(20)

    def ask(self, command: str, **known: Any) -> dict[str, Any]:
        """Give a command and wait for its answer.

        Raises:
            ConnectionError: the process could not do it.
        """
        assert self._process.stdin is not None, "it was opened with pipes"
        assert self._process.stdout is not None, "it was opened with pipes"
        self._process.stdin.write(json.dumps({"command": command, **known}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the readers ended"}')
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return answer


def main() -> None:
    """Obey until standard input ends."""
    reader = Reader()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(reader, asked.pop("command"))(**asked)
        except OSError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
