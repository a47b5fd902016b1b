"""What befalls a client: networks that break or fall silent, gateways that restart, programs that are slow or leave."""

import asyncio
import base64
import contextlib
import json
import threading
import time

import pytest
from websockets.asyncio.server import serve

import barograph
import barograph.sync
from barograph import client as client_module
from runtime.errors import InputError, UsageError
from tests.unit.barograph.live_gateway import WHAT, LateFeeder, cut, gateway, relay, take
from ws_gateway import subscription as gateway_subscription

HELLO = {"op": "hello", "protocol": "barograph.v1", "tapes": [], "instruments": {}, "aliases": {}}


def bins_of(frames):
    return [int(n) for frame in frames for n in frame.to_numpy("bin_seq")]


def in_order(bins):
    """Each bin once, none missing."""
    return bins == list(range(bins[0], bins[0] + len(bins)))


async def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never held"
        await asyncio.sleep(0.01)


def run(work, seconds=60):
    return asyncio.run(asyncio.wait_for(work, seconds))


@contextlib.asynccontextmanager
async def other_server(talk):
    """A WebSocket server that is no gateway; `talk(socket)` is what it says."""
    async with serve(talk, "127.0.0.1", 0, subprotocols=["barograph.v1"]) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/stream"


def test_a_gateway_that_restarts_costs_no_row_even_if_it_does_not_know_its_tapes_at_first():
    async def main():
        frames = []
        async with contextlib.AsyncExitStack() as stack:
            url, feeder, stop = await stack.enter_async_context(gateway())
            client = await stack.enter_async_context(barograph.connect(url))
            subscription = client.subscribe("bins", **WHAT, start="bin/0")
            async for frame in subscription:
                frames.append(frame)
                if len(frames) == 20:
                    stop.set()
                    await asyncio.sleep(0.3)
                    port = int(url.split("/")[2].split(":")[1])
                    await stack.enter_async_context(gateway(port, LateFeeder, history=feeder.sent + 5))
                if len(frames) > 20 and subscription.resumed and frame.number > 5:
                    return bins_of(frames), subscription.resumed

    bins, resumed = run(main())
    assert in_order(bins)
    assert resumed == 1


def test_a_silent_network_is_noticed_and_costs_no_row(monkeypatch):
    monkeypatch.setattr(client_module, "SILENCE_S", 1.5)

    async def main():
        async with gateway() as (url, _, _), relay(url) as (address, through), barograph.connect(address) as client:
            subscription = client.subscribe("bins", **WHAT, start="bin/0")
            frames = []
            async for frame in subscription:
                frames.append(frame)
                if len(frames) == 20:
                    through.silence()
                if subscription.resumed and frame.number > 5:
                    return bins_of(frames)

    assert in_order(run(main(), 20))


def test_digests_agree_across_connections_that_break(monkeypatch):
    monkeypatch.setattr(gateway_subscription, "DIGEST_NS", 50_000_000)

    async def main():
        async with gateway() as (url, _, _), relay(url) as (address, through), barograph.connect(address) as client:
            subscription = client.subscribe("bins", **WHAT, start="bin/0", digest=True)
            frames, compared = [], []
            compare = subscription._course._compare
            subscription._course._compare = lambda told: (compared.append(told), compare(told))
            async for frame in subscription:
                frames.append(frame)
                if len(frames) in (30, 31, 80):
                    cut(through)
                if len(frames) >= 150:
                    return bins_of(frames), len(compared), subscription.resumed

    bins, compared, resumed = run(main())
    assert in_order(bins)
    assert compared >= 5
    assert resumed >= 2


def test_a_slow_program_holds_little_and_every_row_is_shown_or_counted():
    fields = ["bin_seq", *(f"{k}_mass" for k in ("add", "pull", "fill")), "bid_depth", "ask_depth", "v_add", "v_pull"]

    async def main():
        async with (
            gateway(period_s=0, history=1, radius=200) as (url, feeder, _),
            barograph.connect(url) as client,
        ):
            subscription = client.subscribe("grid", **WHAT, fields=fields, dtype="f64")
            frames, bins = aiter(subscription), []
            bins += bins_of([await anext(frames)])
            for _ in range(200):  # 1,000 rows of 22 KiB: more than inbox, sockets and what the gateway lets wait
                for _ in range(5):
                    feeder.publish()
                await asyncio.sleep(0)
            await asyncio.sleep(0.5)
            held = subscription._inbox._items.qsize()
            last = feeder.sent + bins[0] - 1
            while bins[-1] < last:
                bins += bins_of([await anext(frames)])
            return bins, held, subscription.left_out

    bins, held, left_out = run(main())
    assert held <= client_module.QUEUE_FRAMES
    assert left_out > 0
    assert len(bins) + left_out == bins[-1] - bins[0] + 1


def test_a_wait_for_a_frame_may_be_cancelled_and_begun_again():
    async def main():
        async with gateway(period_s=0, history=1) as (url, feeder, _), barograph.connect(url) as client:
            frames = aiter(client.subscribe("bins", **WHAT))
            bins = bins_of([await anext(frames)])
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(frames)
                feeder.publish()
                bins += bins_of([await anext(frames)])
            return bins

    bins = run(main())
    assert in_order(bins)
    assert len(bins) == 4


def test_leaving_the_loop_leaves_the_subscription():
    async def main():
        async with gateway() as (url, feeder, _), barograph.connect(url) as client:

            def readers():
                return sum(len(c.readers) + len(c.cohorts) for c in feeder.hub.channels.values())

            async for _ in client.subscribe("bins", **WHAT):
                break
            await until(lambda: not client._subscriptions and not readers())
            task = asyncio.create_task(take(client.subscribe("bins", **WHAT), 10**9))
            await until(readers)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not client._subscriptions and not readers())

    run(main())


def test_a_pass_that_is_kept_ends_when_another_begins():
    async def main():
        async with gateway(period_s=0.001) as (url, _, _), barograph.connect(url) as client:
            subscription = client.subscribe("bins", **WHAT, start="bin/0")
            kept = aiter(subscription)
            first = [await anext(kept)]
            await until(lambda: subscription._inbox._items.qsize() == client_module.QUEUE_FRAMES)
            rest = await take(subscription, 80)  # the reader stood before the full inbox of the first pass
            for _ in range(client_module.QUEUE_FRAMES):
                await anext(kept)
            with pytest.raises(UsageError, match="elsewhere"):
                await anext(kept)
            return bins_of(first + rest)

    assert in_order(run(main()))


def test_a_program_that_does_not_read_keeps_no_other_from_hearing_of_the_end():
    async def main():
        async with (
            gateway(period_s=0, history=1) as (url, feeder, stop),
            barograph.connect(url, patience_s=0) as client,
        ):
            idle = aiter(client.subscribe("bins", **WHAT))
            await anext(idle)
            busy = asyncio.create_task(take(client.subscribe("trades", **WHAT), 10**9))
            for held in range(1, client_module.QUEUE_FRAMES + 1):  # full, with nothing more under way
                feeder.publish()
                await until(lambda held=held: idle._inbox._items.qsize() == held)
            stop.set()
            with pytest.raises(barograph.ConnectionLostError):
                await busy

    run(main(), 20)


def test_a_client_that_is_not_connected_says_so():
    async def main():
        async with gateway() as (url, _, _):
            client = barograph.connect(url)
            with pytest.raises(UsageError, match="not connected; use it with `async with"):
                await take(client.subscribe("bins", **WHAT), 1)
            async with client:
                task = asyncio.create_task(take(client.subscribe("bins", **WHAT), 10**9))
                await asyncio.sleep(0.2)
            with pytest.raises(barograph.ConnectionLostError, match="the client was closed"):
                await task
            with pytest.raises(barograph.ConnectionLostError):
                await take(client.subscribe("bins", **WHAT), 1)

    run(main(), 20)


def test_leaving_does_not_wait_for_a_gateway_that_is_gone_or_for_what_was_not_read():
    async def main():
        async with gateway(period_s=0.001) as (url, _, _), relay(url) as (address, through):
            for silence in (False, True):
                async with barograph.connect(address) as client:
                    frames = aiter(client.subscribe("grid", **WHAT, start="bin/0"))
                    await anext(frames)
                    await asyncio.sleep(0.5)
                    if silence:
                        through.silence()
                    began = time.monotonic()
                assert time.monotonic() - began < 3 * client_module.CLOSE_S + 1

    run(main(), 30)


def test_a_gateway_that_takes_connections_and_drops_them_is_not_hammered():
    dials = []

    async def talk(socket):
        dials.append(time.monotonic())
        await socket.send(json.dumps(HELLO))
        await socket.close(1011)

    async def main():
        async with other_server(talk) as url, barograph.connect(url, patience_s=1.5) as client:
            with pytest.raises(barograph.ConnectionLostError, match="1011"):
                await take(client.subscribe("bins", **WHAT), 1)

    run(main(), 20)
    assert 3 <= len(dials) <= 12


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("hallo", "no gateway of barograph.v1"),
        ('{"op": "hello", "protocol": "barograph.v9"}', "no gateway of barograph.v1"),
    ],
)
def test_what_is_no_gateway_is_told_in_one_sentence(said, error):
    async def talk(socket):
        await socket.send(said)
        await socket.wait_closed()

    async def main():
        async with other_server(talk) as url:
            with pytest.raises(barograph.GatewayError, match=error):
                await barograph.connect(url).__aenter__()

    run(main(), 20)


def test_frames_of_another_version_are_not_guessed_at():
    async def talk(socket):
        await socket.send(json.dumps(HELLO))
        await socket.recv()
        await socket.send(b"\x02" + bytes(40))
        await socket.wait_closed()

    async def main():
        async with other_server(talk) as url, barograph.connect(url) as client:
            with pytest.raises(barograph.GatewayError, match="another protocol"):
                await take(client.subscribe("bins", **WHAT), 1)

    run(main(), 20)


@pytest.mark.parametrize(("code", "name"), [(4004, "schema_changed"), (4001, "slow"), (1008, "policy")])
def test_codes_after_which_trying_again_is_no_use_end_it_at_once(code, name):
    async def talk(socket):
        await socket.send(json.dumps(HELLO))
        await socket.recv()
        await socket.close(code, "why")

    async def main():
        async with other_server(talk) as url, barograph.connect(url) as client:
            for _ in range(2):  # also for whoever comes later
                with pytest.raises(barograph.GatewayError, match=rf"\({code} why\); ") as caught:
                    await take(client.subscribe("bins", **WHAT), 1)
                assert caught.value.code == name

    run(main(), 20)


def test_addresses_that_lead_nowhere():
    async def main():
        with pytest.raises(InputError, match="is no address of a gateway; write ws://"):
            await barograph.connect("http://127.0.0.1:8760").__aenter__()
        async with gateway() as (url, _, _):
            with pytest.raises(barograph.GatewayError, match="HTTP 404"):
                await barograph.connect(url.replace("/v1/stream", "/")).__aenter__()

    run(main(), 20)


def test_no_proxy_stands_before_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            return client.hello["tapes"]

    assert run(main(), 20) == ["synthetic"]


def jwt(ends_in_s):
    body = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + ends_in_s}).encode()).decode().rstrip("=")
    return f"x.{body}.y"


def test_a_token_is_asked_for_in_a_thread_again_if_that_fails_and_presented_in_band(monkeypatch):
    monkeypatch.setattr(client_module, "SOON_S", 0.05)
    shown, asked = [], []

    async def talk(socket):
        shown.append(socket.request.headers["Authorization"])
        await socket.send(json.dumps(HELLO))
        async for message in socket:
            shown.append(json.loads(message)["token"])

    def token():
        asked.append(threading.current_thread())
        if len(asked) == 2:
            raise OSError("the identity provider is away")
        return jwt(0) if len(asked) < 3 else jwt(3600)

    async def main():
        async with other_server(talk) as url, barograph.connect(url, token=token):
            await until(lambda: len(shown) == 2)

    run(main(), 20)
    assert shown[0].startswith("Bearer x.")
    assert len(asked) == 3
    assert threading.main_thread() not in asked  # it may take its time: the event loop goes on


def test_a_token_that_cannot_be_had_for_the_next_connection_is_told_to_the_program():
    async def talk(socket):
        await socket.send(json.dumps(HELLO))
        await asyncio.sleep(0.2)
        await socket.close(4003, "expired")

    given = [jwt(3600)]

    async def main():
        async with other_server(talk) as url, barograph.connect(url, token=given.pop) as client:
            with pytest.raises(IndexError):
                await take(client.subscribe("bins", **WHAT), 1)

    run(main(), 20)


def test_a_gateway_that_wants_a_token_asks_for_one():
    def deny(connection, _request):
        return connection.respond(401, "no\n")

    async def main():
        async with serve(lambda _: None, "127.0.0.1", 0, process_request=deny) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/stream"
            with pytest.raises(barograph.GatewayError, match="asks for a token; give one with token="):
                await barograph.connect(url).__aenter__()
            with pytest.raises(barograph.GatewayError, match="does not accept the token; give another"):
                await barograph.connect(url, token="a").__aenter__()

    run(main(), 20)


@pytest.mark.parametrize("status", [200, 403, 404])
def test_an_address_of_something_else_does_not_ask_for_a_token(status):
    def deny(connection, _request):
        return connection.respond(status, "no\n")

    async def main():
        async with serve(lambda _: None, "127.0.0.1", 0, process_request=deny) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/stream"
            with pytest.raises(barograph.GatewayError, match="is no stream of a gateway") as refused:
                await barograph.connect(url).__aenter__()
            assert refused.value.code == "address"

    run(main(), 20)


def test_a_gateway_that_refuses_before_its_hello_is_not_asked_again():
    async def talk(socket):
        await socket.close(1008, "there is no such serving version or alias")

    async def main():
        async with other_server(talk) as url:
            with pytest.raises(barograph.GatewayError, match="no such serving version") as refused:
                await barograph.connect(url).__aenter__()
            assert refused.value.code == "policy"

    run(main(), 20)


def test_a_port_that_is_none_is_an_input_error():
    async def main():
        with pytest.raises(InputError, match="is no address of a gateway"):
            await barograph.connect("ws://127.0.0.1:99999/v1/stream").__aenter__()

    run(main(), 20)


async def rows_in(frames, seconds):
    """How many rows come within some time, of a pass that goes on afterwards."""
    count = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                count += (await anext(frames)).to_arrow().num_rows
    return count


@pytest.mark.parametrize("who", ["first", "second"])
def test_a_shared_clock_stands_still_again_whoever_paused_it(who):
    async def main():
        async with (
            gateway(period_s=0.02) as (url, _, _),
            relay(url) as (address, connections),
            barograph.connect(address) as client,
        ):
            pair = [client.subscribe(stream, **WHAT, clock="c") for stream in ("bins", "grid")]
            passes = [aiter(s) for s in pair]
            for frames in passes:
                await anext(frames)
            await pair[who == "second"].pause()
            await asyncio.gather(*(rows_in(f, 0.5) for f in passes))
            cut(connections)
            still = await asyncio.gather(*(rows_in(f, 1.5) for f in passes))
            assert [s.resumed for s in pair] == [1, 1]
            await pair[who == "first"].resume()  # by the other one
            gone = await asyncio.gather(*(rows_in(f, 1.0) for f in passes))
            cut(connections)
            again = await asyncio.gather(*(rows_in(f, 1.5) for f in passes))
            return still, gone, again

    still, gone, again = run(main(), 30)
    assert still == [0, 0]
    assert min(gone) > 0
    assert min(again) > 0


def test_a_pause_said_before_the_first_frame_holds_on_a_clock_that_goes():
    async def main():
        async with gateway(period_s=0.02) as (url, _, _), barograph.connect(url) as client:
            one, two = (client.subscribe(stream, **WHAT, clock="c") for stream in ("bins", "grid"))
            goes = aiter(one)
            await anext(goes)
            await two.pause()
            came = await rows_in(aiter(two), 0.7)
            await rows_in(goes, 0.3)
            return came, await rows_in(goes, 0.5)

    came, later = run(main(), 20)
    assert came <= 2, "what was under way"
    assert later == 0


def test_a_pass_that_the_garbage_collector_ends_in_the_loops_thread_blocks_nothing():
    async def main():
        async with gateway() as (url, _, _):
            await asyncio.to_thread(cells, url)

    def cells(url):
        with barograph.sync.connect(url) as client:
            left = iter(client.subscribe("bins", **WHAT))
            next(left)
            client._loop.call_soon_threadsafe(left.close)  # as a collection that happens there would
            assert next(iter(client.subscribe("bins", **WHAT))).to_arrow().num_rows

    run(main(), 20)


def test_a_notebook_where_a_loop_runs_already_needs_no_with():
    async def cells(url):
        client = barograph.sync.connect(url)  # called while this loop runs, as in Jupyter
        bins = []
        for frame in client.subscribe("bins", **WHAT, start="bin/0"):
            bins += frame.to_numpy("bin_seq").tolist()
            if len(bins) > 5:
                break
        subscription = client.subscribe("bins", **WHAT, start=f"bin/{bins[-1]}")
        kept = iter(subscription)
        next(kept)
        client.close()
        client.close()
        with pytest.raises(UsageError, match="the client is closed; connect again"):
            next(iter(client.subscribe("bins", **WHAT)))
        del kept
        return bins

    async def main():
        async with gateway() as (url, _, _):
            return await asyncio.to_thread(asyncio.run, cells(url))

    assert in_order(run(main(), 30))
