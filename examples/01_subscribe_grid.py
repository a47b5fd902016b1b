"""Print the live grid as polars frames. Argument: the gateway's address, if it is not the default."""

import asyncio
import sys

import barograph


async def main(url: str) -> None:
    """Subscribe to the first instrument of the newest tape."""
    async with barograph.connect(url) as client:
        tape = client.hello["tapes"][-1]
        instrument = client.hello["instruments"][tape][0]
        async for frame in client.subscribe("grid", tape=tape, instrument=instrument):
            print(frame.to_polars())


asyncio.run(main(*sys.argv[1:2] or ["ws://127.0.0.1:8761/v1/stream"]))
