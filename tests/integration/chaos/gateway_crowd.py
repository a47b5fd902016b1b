"""A crowd of real clients in a process of its own: most read all they get, some little, some nothing.

Driven by lines of JSON on its standard input, each answered with one line:

    {"do": "join", "kind": "healthy", "count": 940}        connect and subscribe
    {"do": "go", "seconds": 20, "warm_s": 2}               read; how late rows came, whether all did, how many were cut
    {"do": "leave", "kind": "slow"}                        close

Frames are parsed by hand. Of each batch only the header is looked at, and the two numbers in the row that tell when it
was published and which bin it is; where these stand in a payload is told by whoever makes the rows.
"""

import json
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from control.bench.gateway_readers import HANDSHAKE, Flow, after_handshake, masked
from ws_gateway.frames import HEADER, Kind

BUFFER: Final = memoryview(bytearray(1 << 20))

SMALL_BUFFER_BYTES: Final = 32 << 10
"""Receive buffer of those who do not read all: otherwise the kernel would read on for them."""

KINDS: Final = ("healthy", "lame", "slow", "dead")
"""Those that read all that comes, half of it, 1 kB/s, nothing."""

SLOW_BYTES_S: Final = 1_000


@dataclass(frozen=True)
class Place:
    """Where a process finds the gateway, what to say, and where in a payload the numbers stand.

    Attributes:
        port: of the gateway.
        subscribe: text of the subscription.
        bytes_s: bytes a second that come.
        stamp_at, bin_at: byte offsets of the time of publication (ns, int64) and of the bin's number (int64).
    """

    port: int
    subscribe: str
    bytes_s: float
    stamp_at: int
    bin_at: int


class Member(Flow):
    """One client.

    Attributes:
        kind: how it reads.
        faults: batches whose number or bin is not what had to follow.
        left_out: rows that it was told were left out.
    """

    def __init__(self, kind: str, place: Place) -> None:
        super().__init__(socket.socket(), keep=False)
        self.kind, self._place = kind, place
        self.faults = self.left_out = 0
        self.late_ns: list[int] = []
        self._number = self._bin = -1
        if kind != "healthy":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        self.sock.settimeout(30)
        self.sock.connect(("127.0.0.1", place.port))
        self.sock.sendall(HANDSHAKE.encode())
        after_handshake(self.sock)
        self.sock.sendall(masked(place.subscribe))
        self.sock.setblocking(False)

    @property
    def was_cut(self) -> bool:
        """Whether the connection is no longer established; what came before may still wait to be read."""
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1

    def read(self, most: int) -> bool:
        """Take what is there; False if the connection was cut."""
        try:
            count = self.sock.recv_into(BUFFER[:most])
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not count:
            return False
        self.feed(BUFFER[:count])
        return True

    def look(self, have: bytearray, start: int, end: int) -> bool:
        """Look at the header, and at time and bin of the row."""
        if len(have) < min(end, start + HEADER.size + max(self._place.stamp_at, self._place.bin_at) + 8):
            return False
        _, kind, _, _, number, left_out, _ = HEADER.unpack_from(have, start)
        self.faults += number != self._number + 1
        self._number = number
        if kind != Kind.BATCH:
            return True
        begin = start + HEADER.size
        stamp, row = (int.from_bytes(have[begin + at : begin + at + 8], "little", signed=True) for at in
                      (self._place.stamp_at, self._place.bin_at))  # fmt: skip
        self.faults += self._bin >= 0 and row != self._bin + 1 + left_out
        self._bin, self.left_out, self.frames = row, self.left_out + left_out, self.frames + 1
        self.late_ns.append(time.time_ns() - stamp)
        return True


class Crowd:
    """All clients of the process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._selector = selectors.DefaultSelector()
        self._members: dict[str, list[Member]] = {kind: [] for kind in KINDS}
        self._cut: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._gone: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}  # what members that left had counted

    def join(self, kind: str, count: int) -> dict[str, Any]:
        """Connect so many; meanwhile the others read."""
        for _ in range(count):
            self._add(kind)
            self._serve(0)
        return {"members": len(self._members[kind])}

    def leave(self, kind: str) -> dict[str, Any]:
        """Close all of a kind."""
        for member in list(self._members[kind]):
            self._drop(member)
        return {}

    def go(self, seconds: float, warm_s: float = 0.0) -> dict[str, Any]:
        """Read for a while as each kind does; those who were cut come back."""
        self._cut = dict.fromkeys(KINDS, 0)
        begin_s = last_s = time.monotonic()
        counting = False
        while (now_s := time.monotonic()) < begin_s + seconds:
            if not counting and now_s >= begin_s + warm_s:
                counting = True
                for member in self._all():
                    member.late_ns.clear()
            self._serve(0.02)
            if now_s - last_s >= 0.25:
                self._trickle(now_s - last_s)
                last_s = now_s
        return self._told()

    def _told(self) -> dict[str, Any]:
        late = np.array([ns for m in self._members["healthy"] for ns in m.late_ns], np.int64)
        return {
            "late_ms": [float(np.percentile(late, p)) / 1e6 for p in (50, 99)] if len(late) else [],
            "faults": sum(self._sum("faults").values()),
            "left_out": self._sum("left_out"),
            "frames": self._sum("frames"),
            "cut": self._cut,
        }

    def _sum(self, what: str) -> dict[str, int]:
        """A count over all members so far, by kind."""
        return {k: self._gone[k][what] + sum(getattr(m, what) for m in members) for k, members in self._members.items()}

    def _all(self) -> list[Member]:
        return [m for members in self._members.values() for m in members]

    def _add(self, kind: str) -> None:
        member = Member(kind, self._place)
        self._members[kind].append(member)
        if kind == "healthy":
            self._selector.register(member.sock, selectors.EVENT_READ, member)

    def _drop(self, member: Member) -> None:
        if member.kind == "healthy":
            self._selector.unregister(member.sock)
        member.sock.close()
        self._gone[member.kind].update(faults=member.faults, left_out=member.left_out, frames=member.frames)
        self._members[member.kind].remove(member)

    def _serve(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if not key.data.read(len(BUFFER)):
                self._again(key.data)

    def _trickle(self, elapsed_s: float) -> None:
        for kind, bytes_s in (("lame", self._place.bytes_s / 2), ("slow", SLOW_BYTES_S)):
            for member in list(self._members[kind]):
                if member.was_cut or not member.read(max(1, int(bytes_s * elapsed_s))):
                    self._again(member)
        for member in list(self._members["dead"]):
            if member.was_cut:
                self._again(member)

    def _again(self, member: Member) -> None:
        """It was cut: somebody else comes in its place."""
        self._cut[member.kind] += 1
        self._drop(member)
        self._add(member.kind)


def main() -> None:
    """Obey until standard input ends; the first line says where."""
    crowd = Crowd(Place(**json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(crowd, asked.pop("do"))(**asked)
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
