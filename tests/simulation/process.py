"""A process that can die or stand still between any two of its steps.

Whatever a process does that somebody else could notice goes through its doubles: a read, a write, a message, a look at
the clock of the group. Each double asks the process first. So

    killed    every task is cancelled, and a double that is called all the same (in a `finally`, by a thread) raises
              `Died`: a dead process does nothing any more
    frozen    (SIGSTOP) no step ends until it is thawed; then all go on as if no time had passed

Code that production runs in a thread runs here in a greenlet: a function that can be left in the middle, wherever it
touches a double, and gone on with later. One runs at a time, so there is nothing to lock, and the order is the seed's.
"""

import asyncio
import contextlib
from collections import deque

import greenlet


class Died(BaseException):
    """This process is dead."""


class Process:
    """Tasks and threads that live and die together.

    Attributes:
        alive: whether it lives.
        exited: future of the reason why it ended.
        steps: steps of its threads so far.
    """

    def __init__(self, world, name):
        self.world, self.name, self.alive = world, name, True
        self.loop = asyncio.get_running_loop()
        self.exited = self.loop.create_future()
        self.steps = 0
        self._tasks = []
        self._thawed = None
        self._armed = []

    # -- life --------------------------------------------------------------------------------------------------------

    def spawn(self, coroutine):
        """Run a coroutine as part of this process; if it fails, the process leaves."""
        if not self.alive:
            coroutine.close()
            raise Died
        task = self.loop.create_task(self._guard(coroutine))
        task.add_done_callback(lambda _: coroutine.close())  # cancelled before it began, it would complain
        self._tasks = [known for known in self._tasks if not known.done()]
        self._tasks.append(task)
        return task

    async def _guard(self, coroutine):
        try:
            await coroutine
        except Died:
            pass
        except Exception as error:  # whatever escapes ends a process
            if self.alive:  # in a task of its own: last words may cancel the one that failed
                self._tasks.append(self.loop.create_task(self._last_words(error)))

    async def _last_words(self, error):
        with contextlib.suppress(Died):
            await self.fails(error)

    async def fails(self, error):
        """An exception escaped."""
        self.kill(f"{type(error).__name__}: {error}")

    def kill(self, why):
        """End at once (`kill -9`)."""
        if not self.alive:
            return
        self.alive = False
        self.world.note(self.name, "ends", why)
        for task in self._tasks:
            task.cancel()
        self.thaw()
        self.exited.set_result(why)

    def freeze(self):
        """SIGSTOP."""
        if self.alive and self._thawed is None:
            self.world.note(self.name, "stands still")
            self._thawed = self.loop.create_future()

    def thaw(self):
        """SIGCONT."""
        if self._thawed is not None:
            self.world.note(self.name, "goes on")
            self._thawed.set_result(None)
            self._thawed = None

    def arm(self, steps, action):
        """Call `action` at some step of a thread from now on."""
        self._armed.append((self.steps + steps, action))

    # -- steps -------------------------------------------------------------------------------------------------------

    def check(self):
        """Nothing happens in a dead process."""
        if not self.alive:
            raise Died

    async def gate(self):
        """Pass if the process lives and moves."""
        while self._thawed is not None:
            await asyncio.shield(self._thawed)  # others wait for it too
        self.check()

    async def sleep(self, seconds):
        """A step of a task that takes time."""
        self.check()
        await asyncio.sleep(seconds)
        await self.gate()

    async def wait(self, awaitable):
        """A step of a task that waits for something outside."""
        result = await awaitable
        await self.gate()
        return result

    def step(self, longest_s=0.004):
        """A step of a thread; outside of one, only a look whether the process lives."""
        self.check()
        if greenlet.getcurrent().parent is None:
            return
        self.steps += 1
        for entry in [entry for entry in self._armed if entry[0] <= self.steps]:
            self._armed.remove(entry)
            entry[1]()
        self.check()
        self.until(self.sleep(self.world.rng.random() * longest_s))

    def until(self, awaitable):
        """Wait within a thread."""
        self.check()
        result = greenlet.getcurrent().parent.switch(awaitable)
        self.check()
        return result

    def thread(self):
        """A thread of its own, as `streams.shell.Threads`."""
        return Thread(self)

    def now_ns(self):
        self.check()
        return int((1_700_000_000 + self.loop.time()) * 1e9)

    def monotonic_s(self):
        return 1_000.0 + self.loop.time()


class Thread:
    """Work off the event loop, one piece at a time, in order. What began goes on, though nobody may wait for it now."""

    def __init__(self, process):
        self._process = process
        self._queue = deque()
        self._busy = False

    async def __call__(self, function, *args):
        self._process.check()
        done = self._process.loop.create_future()
        self._queue.append((done, function, args))
        if not self._busy:
            self._busy = True
            self._process.spawn(self._run())
        result = await done
        await self._process.gate()
        return result

    async def _run(self):
        while self._queue:
            done, function, args = self._queue.popleft()
            if done.cancelled():
                continue
            try:
                result = await self._piece(function, args)
            except Exception as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)
        self._busy = False

    async def _piece(self, function, args):
        """Run a function as a greenlet; each time it must wait it hands over what for."""
        piece = greenlet.greenlet(function)
        awaited = piece.switch(*args)
        while not piece.dead:
            try:
                result = await awaited
            except Exception as error:
                awaited = piece.throw(error)
            except BaseException:  # killed: unwind it; its doubles do nothing any more
                piece.throw(Died())
                raise
            else:
                awaited = piece.switch(result)
        return awaited
