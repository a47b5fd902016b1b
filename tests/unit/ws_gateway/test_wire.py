"""One connection without an event loop: a socket pair and a transport that does what it is told."""

import asyncio
import os
import random
import select
import socket

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from ws_gateway import wire as wire_module
from ws_gateway.frames import BINARY_FRAME, HEADER, frame_start
from ws_gateway.wire import Wire, spread

S = 1_000_000_000


class Transport(asyncio.Transport):
    """Keeps what the socket does not take, as the event loop's does."""

    def __init__(self, sock):
        super().__init__()
        self.sock, self.buffer, self.closing, self.ended = sock, bytearray(), False, False
        self.paused = False

    def get_extra_info(self, name, default=None):
        return self.sock if name == "socket" else None

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def get_write_buffer_size(self):
        return len(self.buffer)

    def write(self, data):
        self.buffer += data
        self.drain()

    def drain(self):
        while self.buffer:
            try:
                del self.buffer[: self.sock.send(self.buffer)]
            except BlockingIOError:
                return

    def is_closing(self):
        return self.closing

    def abort(self):
        self.closing = True

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


class House:
    """Lets everybody in, unless told what to answer."""

    def __init__(self):
        self.wires, self.origins, self.subprotocols = set(), [None], ["barograph.v1"]
        self.begun, self.response, self.error = [], None, None

    def answer(self, wire, request):
        if self.error:
            raise self.error
        return self.response

    def begin(self, wire, request):
        self.begun.append((wire, request.path))


class Receiver:
    def __init__(self):
        self.frames, self.woken, self.gone = [], 0, False

    def receive(self, frame):
        self.frames.append(bytes(frame.data))

    def set(self):
        self.woken += 1

    def lost(self):
        self.gone = True


class Link:
    """A wire and the far end of its socket, with time that the test moves."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            near = socket.create_connection(server.getsockname())
            self.far, _ = server.accept()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        near.setblocking(False)
        self.far.setblocking(False)
        self.ns, self.house, self.receiver = S, House(), Receiver()
        self.wire = Wire(self.house, lambda: self.ns)
        self.transport = Transport(near)
        self.client = ClientProtocol(parse_uri("ws://x/v1/stream"), subprotocols=["barograph.v1"])
        self.wire.connection_made(self.transport)

    def hands(self):
        self.client.send_request(self.client.connect())
        return b"".join(self.client.data_to_send())

    def give(self, data, piece=10**6):
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            self.wire.get_buffer(-1)[: len(part)] = part
            self.wire.buffer_updated(len(part))

    def take(self):
        """Everything that was written and not read yet; what the kernel has is there a moment later."""
        out, quiet = bytearray(), 0
        while quiet < 3:
            self.transport.drain()
            if select.select([self.far], [], [], 0.05)[0]:
                out += self.far.recv(1 << 20)
                quiet = 0
            else:
                quiet += 1
        return bytes(out)

    def open(self):
        self.give(self.hands())
        self.wire.open(self.receiver)
        self.client.receive_data(self.take())
        assert isinstance(self.client.events_received()[0], Response)


@pytest.fixture
def link():
    made = Link()
    yield made
    made.far.close()
    made.transport.sock.close()


@pytest.mark.parametrize("piece", [1, 7, 10**6])
def test_an_opening_request_may_come_in_pieces_and_frames_right_behind_it(link, piece):
    request = link.hands()
    hello = bytes([0x81, 0x82]) + bytes(4) + b"hi"
    link.give(request + hello, piece)
    assert [path for _, path in link.house.begun] == ["/v1/stream"]
    assert link.receiver.frames == []
    assert link.transport.paused
    link.wire.open(link.receiver)
    assert link.receiver.frames == [b"hi"]
    assert not link.transport.paused
    assert link.take().startswith(b"HTTP/1.1 101")


def test_what_is_no_request_ends_the_connection(link):
    link.give(b"\x16\x03\x01 this is TLS\r\n\r\n")
    assert link.house.begun == []
    assert link.transport.ended
    link.wire.look(3 * S)
    assert link.transport.closing


def test_a_request_without_end_is_refused(link):
    link.give(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000, 8_000)
    assert link.take().startswith(b"HTTP/1.1 431")
    assert link.transport.ended


def test_a_fault_of_ours_is_no_handshake(link):
    link.house.error = ValueError("oh")
    link.give(link.hands())
    assert link.take().startswith(b"HTTP/1.1 500")
    assert link.house.begun == []


def test_a_slow_request_is_cut_though_it_goes_on(link):
    for second in range(1, 13):
        link.ns = second * S
        link.give(b"G")
        link.wire.look(link.ns)
    assert link.transport.closing


def test_frames_arrive_whole_and_in_order_however_full_the_socket_is(link):
    link.open()
    rng, sent, got = random.Random(4), [], bytearray()
    for number in range(300):
        payload = bytes([number % 251]) * rng.randrange(1, 9_000)
        link.wire.put(frame_start(BINARY_FRAME, len(payload)), payload)
        sent.append(payload)
        if rng.random() < 0.3 and select.select([link.far], [], [], 0)[0]:
            got += link.far.recv(rng.randrange(1, 30_000))
    assert link.transport.buffer, "some of it had to wait"
    got += link.take()
    link.client.receive_data(bytes(got))
    frames = link.client.events_received()
    assert all(f.opcode is Opcode.BINARY and f.fin for f in frames)
    assert [bytes(f.data) for f in frames] == sent


def test_members_get_the_same_payload_with_their_own_numbers_and_full_ones_are_told(link):
    other = Link()
    for each in (link, other):
        each.open()
    payload = os.urandom(3_000)
    full, rounds = [], 0
    begin = frame_start(BINARY_FRAME, HEADER.size + len(payload))
    members = {"a": (5, 1, link.wire), "b": (0, 2, other.wire)}
    while "b" not in full:  # nobody reads there
        full = spread(members, begin, rounds, 77, payload)
        link.client.receive_data(link.take())
        rounds += 1
    frames = link.client.events_received()
    assert [HEADER.unpack_from(f.data)[3:] for f in frames] == [(1, 5 + n, 0, 77) for n in range(rounds)]
    assert {bytes(f.data[HEADER.size :]) for f in frames} == {payload}
    assert spread({"b": members["b"]}, begin, rounds, 0, payload) == ["b"], "it waits behind what waits"
    other.client.receive_data(other.take())
    last = [HEADER.unpack_from(f.data)[4] for f in other.client.events_received()]
    assert last == list(range(rounds + 1))
    other.wire.connection_lost(None)
    assert spread({"b": members["b"]}, begin, 0, 0, payload) == ["b"], "its number may be another's now"
    other.far.close()
    other.transport.sock.close()


def test_who_is_silent_is_asked_and_then_cut(link):
    link.open()
    for second in range(1, 12):
        link.ns = second * S
        link.wire.look(link.ns)
    link.ns = int(11.5 * S)
    link.wire.look(link.ns)
    link.client.receive_data(link.take())
    assert [f.opcode for f in link.client.events_received()] == [Opcode.PING]
    link.give(b"".join(link.client.data_to_send()))
    link.ns = 20 * S
    link.wire.look(link.ns)
    assert not link.transport.closing
    for second in (22, 31, 33):
        link.ns = second * S
        link.wire.look(link.ns)
        assert link.transport.closing == (second == 33)


def test_nobody_is_cut_because_we_stood_still(link):
    link.open()
    link.ns = 500 * S
    link.wire.look(link.ns)
    assert not link.transport.closing
    link.client.receive_data(link.take())
    link.give(b"".join(link.client.data_to_send()))
    link.ns = 509 * S
    link.wire.look(link.ns)
    assert not link.transport.closing


def test_a_close_is_answered_or_cut(link):
    link.open()
    link.wire.end(4001, "too slow")
    assert not link.wire.is_open
    link.client.receive_data(link.take())
    assert link.client.close_rcvd.code == 4001
    link.wire.look(link.ns + int(1.5 * wire_module.CLOSE_S * S))
    assert link.transport.closing


def test_what_comes_after_the_end_is_nobodys(link):
    link.open()
    link.wire.fail(1007, "no text")
    link.give(b"\x81\x82" + bytes(4) + b"hi")
    assert link.receiver.frames == []
    link.wire.eof_received()
    link.wire.connection_lost(None)
    assert link.receiver.gone
    assert link.wire not in link.house.wires
