"""The public Python face of barograph.

    import barograph

    async with barograph.connect("ws://127.0.0.1:8761/v1/stream") as client:
        async for frame in client.subscribe("grid", tape="demo", instrument="SIM:ES"):
            print(frame.to_polars())

`barograph.sync` is the same without an event loop. Importing this package loads nothing heavy; Arrow, polars and NumPy
come with the first frame that asks for them.
"""

from barograph.client import Client, Subscription, connect
from barograph.errors import ConnectionLostError, GatewayError, WrongFramesError
from barograph.frame import Frame

__all__ = [
    "Client",
    "ConnectionLostError",
    "Frame",
    "GatewayError",
    "Subscription",
    "WrongFramesError",
    "connect",
]
