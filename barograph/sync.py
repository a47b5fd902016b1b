"""The client for programs without an event loop: notebooks, scripts, a REPL.

    import barograph.sync

    with barograph.sync.connect("ws://127.0.0.1:8761/v1/stream") as client:
        for frame in client.subscribe("grid", tape="demo", instrument="SIM:ES"):
            print(frame.to_polars())

A notebook may do without `with`: `client = barograph.sync.connect(...)` is connected, and `client.close()` ends it. An
event loop runs in a thread of its own, so it also works where one runs already, as in Jupyter.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, Self, TypeVar

from barograph import client
from barograph.client import Token
from barograph.frame import Frame
from runtime.errors import UsageError

T = TypeVar("T")


class Subscription:
    """The frames of one subscription, as an iterable; see `barograph.Subscription` for its attributes."""

    def __init__(self, owner: "Client", inner: client.Subscription) -> None:
        self._owner, self._inner = owner, inner

    def __iter__(self) -> Iterator[Frame]:
        frames = aiter(self._inner)
        try:
            while (frame := self._owner.run(_next(frames))) is not None:
                yield frame
        finally:
            self._owner.leave(frames)

    def __getattr__(self, name: str) -> Any:
        """What the asynchronous subscription has: values as they are, operations waited for."""
        found = getattr(self._inner, name)
        if name in _OPERATIONS:
            return lambda *args, **kwargs: self._owner.run(found(*args, **kwargs))
        return found


_OPERATIONS = frozenset({"seek", "pause", "resume", "step", "speed"})


class Client:
    """A connection to a gateway, made by `connect`; ended by `close`, or by leaving its `with`."""

    def __init__(self, inner: client.Client) -> None:
        self._inner = inner
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="barograph-client", daemon=True)
        self._thread.start()
        try:
            self.run(self._inner.__aenter__())
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.is_closed()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._inner.connected

    @property
    def hello(self) -> dict[str, Any]:
        """What the gateway said first."""
        return self._inner.hello

    def subscribe(self, stream: str = "grid", **what: Any) -> Subscription:
        """As `barograph.Client.subscribe`."""
        return Subscription(self, self._inner.subscribe(stream, **what))

    def close(self) -> None:
        """End the connection; a second time does nothing."""
        if not self.closed:
            self.run(self._inner.__aexit__())
            self._end()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop and wait for it; Ctrl-C ends the wait and the work.

        Raises:
            UsageError: the client is closed.
        """
        if self.closed:
            work.close()
            raise UsageError("the client is closed", remedy="connect again")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def leave(self, frames: client.Frames) -> None:
        """Leave a pass without waiting for it: the garbage collector may do so in the loop's own thread."""
        with suppress(RuntimeError):  # the client is closed
            self._loop.call_soon_threadsafe(frames._close)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(frames: client.Frames) -> Frame | None:
    return await anext(frames, None)


def connect(url: str, *, token: Token | None = None, patience_s: float = 60.0) -> Client:
    """As `barograph.connect`, but connected at once."""
    return Client(client.connect(url, token=token, patience_s=patience_s))
