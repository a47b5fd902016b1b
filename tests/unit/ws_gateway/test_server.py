"""The server over real sockets, with rows from a synthetic feeder."""

import asyncio
import contextlib
import json
import socket
import urllib.error
import urllib.request

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from runtime.errors import BarographError, PortTakenError
from tests.browser.synthetic import SyntheticFeeder
from ws_gateway import server
from ws_gateway.frames import HEADER, Kind
from ws_gateway.server import Gateway, check_bind, is_loopback

ORIGIN = "http://127.0.0.1:8760"
WHAT = {"stream": "grid", "tape": "synthetic", "instrument": "GLBX.MDP3:ESH4"}


@contextlib.asynccontextmanager
async def running(serving=lambda _name: None, **known):
    """A gateway on a free port; gives its port, its feeder, and the event that stops it."""
    feeder = SyntheticFeeder(**{"period_s": 0, "history": 3, **known})
    gateway, stop, ready = Gateway(feeder, [ORIGIN], serving=serving), asyncio.Event(), asyncio.Future()
    task = asyncio.create_task(gateway.run("127.0.0.1", 0, stop, ready.set_result))
    done, _ = await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task in done:
        await task
    try:
        yield ready.result(), feeder, stop, gateway
    finally:
        stop.set()
        await task


def dial(port, query="", **known):
    known = {"subprotocols": ["barograph.v1"], "compression": None, "max_size": None, **known}
    return connect(f"ws://127.0.0.1:{port}/v1/stream{query}", **known)


async def get(port, path, method="GET"):
    def fetch():
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def until(socket_, op):
    while True:
        message = await asyncio.wait_for(socket_.recv(), 10)
        if isinstance(message, str) and json.loads(message)["op"] == op:
            return json.loads(message)


async def frames(socket_, count):
    """The next `count` batches: their headers."""
    out = []
    while len(out) < count:
        message = await asyncio.wait_for(socket_.recv(), 10)
        if isinstance(message, bytes) and message[1] == Kind.BATCH:
            out.append(HEADER.unpack_from(message))
    return out


def test_rows_reach_a_real_client():
    async def main():
        async with running() as (port, feeder, _, _), dial(port) as client:
            assert (await until(client, "hello"))["tapes"] == ["synthetic"]
            await client.send(json.dumps({"op": "subscribe", "id": 1, **WHAT}))
            await until(client, "subscribed")
            for _ in range(5):
                feeder.publish()
            seen = await frames(client, 6)
            assert [h[4] for h in seen] == [1, 2, 3, 4, 5, 6]
            assert all(h[5] == 0 for h in seen)
            assert seen[-1][6] > 0

    asyncio.run(main())


def test_plain_http_on_the_same_port():
    async def main():
        async with running() as (port, feeder, _, _):
            assert await get(port, "/health") == (200, "ok\n")
            assert await get(port, "/ready") == (200, "ready\n")
            feeder.ready = False
            assert (await get(port, "/ready"))[0] == 503
            status, text = await get(port, "/metrics")
            assert status == 200
            assert "barograph_gateway_clients" in text
            assert (await get(port, "/v1/else"))[0] == 404
            assert (await get(port, "/v1/stream"))[0] == 400

    asyncio.run(main())


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ({"origin": ORIGIN}, 101),
        ({}, 101),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"subprotocols": ["other"]}, 400),
        ({"subprotocols": None}, 400),
    ],
)
def test_who_is_let_in(known, status):
    async def main():
        async with running() as (port, _, _, _):
            try:
                async with dial(port, **known) as client:
                    assert client.subprotocol == "barograph.v1"
                    return 101
            except InvalidStatus as error:
                return error.response.status_code

    assert asyncio.run(main()) == status


@pytest.mark.parametrize(
    ("message", "code"),
    [("x" * 9000, 1009), (b"arrow", 1008), ("not json", 1008), ('{"op":NaN}', 1008), ("[" * 500, 1008)],
)
def test_hostile_messages_close_with_their_code_and_others_go_on(message, code):
    async def main():
        async with running() as (port, feeder, _, _), dial(port) as good, dial(port) as bad:
            await good.send(json.dumps({"op": "subscribe", "id": 1, **WHAT}))
            await until(good, "subscribed")
            await bad.send(message)
            with pytest.raises(ConnectionClosed):
                await until(bad, "something that never comes")
            feeder.publish()
            assert len(await frames(good, 2)) == 2
            return bad.close_code

    assert asyncio.run(main()) == code


def test_a_client_that_does_not_read_is_conflated_and_the_count_is_right(monkeypatch):
    """It stops reading; the others get every row; when it reads again, sent and left out add up to all of them."""
    monkeypatch.setattr(server, "BEHIND_S_MAX", 600)  # a machine under load may need longer than the watchdog waits

    async def main():
        known = {"instruments": ("GLBX.MDP3:ESH4",), "radius": 500}
        async with running(**known) as (port, feeder, _, _), dial(port) as good, dial(port, max_queue=1) as slow:
            slow.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            fields = ["bin_seq", "add_mass", "pull_mass", "fill_mass", "bid_depth", "ask_depth", "v_add", "v_pull"]
            for client in (good, slow):
                await client.send(json.dumps({"op": "subscribe", "id": 1, **WHAT, "fields": fields, "dtype": "f64"}))
                await until(client, "subscribed")
            first = (await frames(good, 1)) + (await frames(slow, 1))
            assert first[0][4] == first[1][4] == 1
            slow.transport.pause_reading()
            left_out = 0
            for _ in range(300):
                feeder.publish()
                left_out += (await frames(good, 1))[0][5]
            assert left_out == 0
            slow.transport.resume_reading()
            got = skipped = 0
            while got + skipped < 300:
                head = (await frames(slow, 1))[0]
                got, skipped = got + 1, skipped + head[5]
            assert got + skipped == 300
            assert skipped > 100

    asyncio.run(main())


def test_a_client_that_stays_away_is_cut(monkeypatch):
    monkeypatch.setattr(server, "BEHIND_S_MAX", 0.6)

    async def main():
        async with (
            running(radius=500) as (port, feeder, _, gateway),
            dial(port, max_queue=1, close_timeout=0.1) as slow,
        ):
            slow.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            for number in range(4):
                fields = ["add_mass", "pull_mass", "fill_mass", "bid_depth", "ask_depth", "v_add", "v_pull", "a_add"]
                await slow.send(json.dumps({"op": "subscribe", "id": number, **WHAT, "fields": fields, "dtype": "f64"}))
            await until(slow, "subscribed")
            slow.transport.pause_reading()
            for _ in range(600):
                feeder.publish()
                await asyncio.sleep(0.01)
                if not gateway._clients:
                    return True
            return False

    assert asyncio.run(main())


def test_stopping_says_bye_1012_and_ends():
    async def main():
        async with running() as (port, _, stop, _), dial(port) as client:
            await until(client, "hello")
            stop.set()
            bye = await until(client, "bye")
            assert (bye["code"], bye["retry_after_ms"] > 0) == (1012, True)
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert client.close_code == 1012

    asyncio.run(main())


def test_when_all_must_go_they_are_spread_over_time():
    async def main():
        async with running() as (port, _, stop, _), contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(dial(port)) for _ in range(20)]
            stop.set()
            return [(await until(client, "bye"))["retry_after_ms"] for client in clients]

    told = asyncio.run(main())
    assert len(set(told)) > 10
    assert min(told) >= server.RETRY_AFTER_MS


def test_an_address_that_names_a_serving_version_is_subscribed_by_itself():
    messages = [{"op": "subscribe", "id": n, **WHAT, "stream": stream} for n, stream in ((1, "grid"), (2, "bins"))]

    async def main():
        known = {"good": messages}
        async with running(serving=known.get) as (port, _, _, _):
            async with dial(port, "?serving=good") as client:
                await until(client, "hello")
                assert [(await until(client, "subscribed"))["id"] for _ in range(2)] == [1, 2]
                assert {head[3] for head in await frames(client, 2)} == {1, 2}
            async with dial(port, "?serving=bad") as client:
                with pytest.raises(ConnectionClosed):
                    await until(client, "hello")
                return client.close_code

    assert asyncio.run(main()) == 1008


def test_a_feeder_that_fails_ends_the_gateway():
    class Broken(SyntheticFeeder):
        def start(self, hub, on_failure=None):
            super().start(hub)
            asyncio.get_running_loop().call_later(0.05, on_failure, ValueError("gone"))

    async def main():
        await Gateway(Broken(period_s=0)).run("127.0.0.1", 0, asyncio.Event())

    with pytest.raises(ValueError, match="gone"):
        asyncio.run(main())


def test_a_taken_port_is_said_so():
    async def main():
        async with running() as (port, _, _, _):
            with pytest.raises(PortTakenError) as caught:
                await Gateway(SyntheticFeeder()).run("127.0.0.1", port, asyncio.Event())
            assert caught.value.port == port

    asyncio.run(main())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_addresses_than_loopback_are_refused(host):
    assert not is_loopback(host)
    with pytest.raises(BarographError, match="without authentication"):
        check_bind(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.0.1", "::1", "localhost"])
def test_loopback_is_loopback(host):
    assert is_loopback(host)
    check_bind(host)
