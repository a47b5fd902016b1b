"""The public client against a real gateway with synthetic rows."""

import asyncio
import itertools
import queue
import subprocess
import sys
import threading

import numpy as np
import polars as pl
import pytest

import barograph
import barograph.sync
from barograph.frame import BATCH, DIGEST, END, HEADER, SCHEMA
from runtime.errors import MissingServiceError
from tests.unit.barograph.live_gateway import WHAT, cut, gateway, relay, take
from ws_gateway import frames


def test_the_header_is_the_gateways():
    assert HEADER.format == frames.HEADER.format
    assert (frames.Kind.SCHEMA, frames.Kind.BATCH, frames.Kind.DIGEST, frames.Kind.END) == (SCHEMA, BATCH, DIGEST, END)


def test_frames_as_arrow_polars_and_numpy():
    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            assert client.hello["instruments"] == {"synthetic": ["GLBX.MDP3:ESH4"]}
            subscription = client.subscribe("grid", **WHAT, fields=["bin_seq", "rest_depth"], radius=4, dtype="f64")
            seen = await take(subscription, 5)
            assert [f.number for f in seen] == [1, 2, 3, 4, 5]
            assert subscription.agreed["runtime_config"]["radius"] == 4
            assert subscription.left_out == 0
            return seen

    seen = asyncio.run(main())
    bins = [int(f.to_numpy("bin_seq")[0]) for f in seen]
    assert bins == list(range(bins[0], bins[0] + len(bins)))
    vector = seen[0].to_numpy("rest_depth")
    assert vector.shape == (1, 9)
    assert vector.dtype == np.float64
    polars = seen[0].to_polars()
    assert polars.schema["rest_depth"] == pl.Array(pl.Float64, 9)
    assert polars["rest_depth"].to_numpy().tolist() == vector.tolist()
    assert seen[0].to_arrow().schema.names[-1] == "rest_depth"
    assert seen[0].age_us > 0
    with pytest.raises(KeyError):
        seen[0].to_numpy("nope")


def test_trades_and_two_subscriptions_at_once():
    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            pair = (client.subscribe("trades", **WHAT), client.subscribe("bins", **WHAT, start="bin/0"))
            return await asyncio.gather(*(take(s, 4) for s in pair))

    trades, bins = asyncio.run(main())
    assert set(trades[0].to_polars()["side"].to_list()) <= {-1, 1}
    assert bins[0].replayed
    assert len({int(f.to_numpy("bin_seq")[0]) for f in bins}) == 4


def test_a_refusal_is_an_error_with_its_code():
    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            with pytest.raises(barograph.GatewayError) as caught:
                await take(client.subscribe("grid", tape="other", instrument="X"), 1)
            return caught.value.code

    assert asyncio.run(main()) == "unknown_tape"


def test_a_gateway_that_leaves_ends_the_iteration_with_the_cursor():
    async def main():
        async with gateway() as (url, _, stop), barograph.connect(url, patience_s=0) as client:
            subscription = client.subscribe("grid", **WHAT)
            asyncio.get_running_loop().call_later(1.3, stop.set)
            with pytest.raises(barograph.ConnectionLostError) as caught:
                await take(subscription, 10**9)
            return caught.value

    error = asyncio.run(main())
    assert "1012" in str(error)
    assert error.cursor.startswith("synthetic/main/grid/")


def test_a_broken_connection_is_made_again_and_every_row_comes_once():
    async def main():
        async with (
            gateway() as (url, _, _),
            relay(url) as (address, through),
            barograph.connect(address) as client,
        ):
            subscription = client.subscribe("grid", **WHAT, fields=["bin_seq"], start="bin/0")
            bins = []
            async for frame in subscription:
                bins += frame.to_numpy("bin_seq").tolist()
                if len(bins) in (20, 21, 60):  # 21: before a row of the new connection came
                    cut(through)
                if len(bins) >= 100:
                    return bins, subscription.resumed, subscription.left_out

    bins, resumed, left_out = asyncio.run(main())
    assert bins == list(range(bins[0], bins[0] + len(bins)))
    assert resumed >= 2
    assert left_out == 0


def test_left_and_iterated_again_it_goes_on_behind_the_last_frame():
    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            subscription = client.subscribe("bins", **WHAT, start="bin/0")
            return await take(subscription, 3) + await take(subscription, 4)

    bins = [int(n) for f in asyncio.run(main()) for n in f.to_numpy("bin_seq")]
    assert bins == list(range(bins[0], bins[0] + len(bins)))


def test_without_an_event_loop():
    done = threading.Event()
    ready = queue.Queue()

    async def main():
        async with gateway() as (url, _, _):
            ready.put(url)
            await asyncio.to_thread(done.wait)

    server = threading.Thread(target=asyncio.run, args=(main(),))
    server.start()
    try:
        with barograph.sync.connect(ready.get(timeout=10)) as client:
            subscription = client.subscribe("grid", **WHAT, start="bin/0", digest=False)
            bins = [n for frame in itertools.islice(subscription, 5) for n in frame.to_polars()["bin_seq"]]
            assert subscription.agreed["runtime_config"]["stream"] == "grid"
            subscription.pause()
            with pytest.raises(barograph.GatewayError):
                next(iter(client.subscribe("grid", tape="other", instrument="X")))
    finally:
        done.set()
        server.join()
    assert bins == list(range(bins[0], bins[0] + len(bins)))


def test_no_gateway_is_said_in_one_sentence():
    async def main():
        async with barograph.connect("ws://127.0.0.1:9/v1/stream"):
            pass

    with pytest.raises(MissingServiceError, match="no gateway answers"):
        asyncio.run(main())


def test_importing_is_light():
    script = "import sys, barograph; print([m for m in ('pyarrow','polars','numpy','websockets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_arrow_polars_and_numpy_are_views_into_what_the_socket_gave(dtype):
    async def main():
        async with gateway() as (url, _, _), barograph.connect(url) as client:
            return (await take(client.subscribe("grid", **WHAT, start="bin/0", dtype=dtype), 1))[0]

    frame = asyncio.run(main())
    came = np.frombuffer(frame.payload, np.uint8)
    names = frame.to_arrow().schema.names
    assert len(names) > 10
    for name in names:
        assert np.shares_memory(frame.to_numpy(name), came), name
        assert np.shares_memory(frame.to_polars()[name].to_numpy(), came), name
        column = frame.to_arrow().column(name)
        data = column.buffers()[-1]
        assert came.ctypes.data <= data.address < came.ctypes.data + came.nbytes
