"""Strangers wait for one another, and never keep those who write waiting."""

import asyncio
import threading
from collections.abc import Iterator

import httpx

from control.embedded.store_admission import LIMITS, WHOLE_BYTES_MAX
from control.embedded.store_engine import Answer, Request
from control.embedded.store_http import READERS_MAX, THREADS_MAX, make_app
from control.embedded.store_sql import Statement


class SlowEngine:
    """An engine whose statements of readers end when they are told to."""

    version = "1"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.at_once = self.most = 0
        self.limits: set[str] = set()
        self._lock = threading.Lock()

    def written(self, statement: Statement) -> str:
        return statement.text

    def names_a_file(self, _: str) -> bool:
        return False

    def syntax_tree(self, *_: object) -> str:
        return "SelectWithUnionQuery (children 1)\n ExpressionList\n"

    def run(self, _: Statement, request: Request) -> Answer:
        if request.strict:
            self._wait(request)
        return Answer(b"1\n")

    def stream(self, _: Statement, request: Request) -> Iterator[bytes]:
        self._wait(request)
        yield b"1\n"

    def _wait(self, request: Request) -> None:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.limits.add(request.settings["max_result_bytes"])
        assert self.go_on.wait(30)
        with self._lock:
            self.at_once -= 1


async def served(engine: SlowEngine) -> tuple[list[int], int]:
    app = make_app(engine)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:

        async def ask(user: str, **values: str) -> int:
            return (await client.post("/", params={"user": user, **values}, content="SELECT 1")).status_code

        strangers = [
            asyncio.create_task(ask("reader", wait_end_of_query=str(number % 2))) for number in range(2 * THREADS_MAX)
        ]
        try:
            while engine.at_once < READERS_MAX:
                await asyncio.sleep(0.01)
            sink = await asyncio.wait_for(ask("default", wait_end_of_query="1"), 20)
        finally:
            engine.go_on.set()
        return await asyncio.gather(*strangers), sink


def test_a_sink_is_answered_while_many_strangers_ask() -> None:
    engine = SlowEngine()
    strangers, sink = asyncio.run(served(engine))
    assert sink == 200
    assert strangers == [200] * (2 * THREADS_MAX)
    assert engine.most == READERS_MAX
    assert engine.limits == {str(LIMITS["max_result_bytes"]), str(WHOLE_BYTES_MAX)}
