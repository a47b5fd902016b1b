"""Virtual time: an event loop that never waits.

Everything in a simulation happens on one event loop whose clock jumps to the next timer as soon as nothing is ready.
There are no threads, no sockets and no sleeping, so a run is a function of its seed, and a minute takes milliseconds.
"""

import asyncio

STEPS_MAX = 400_000
"""Turns of the loop in one run. An ordinary one has a few thousand; a run that spins in no time would never end."""


class StuckError(Exception):
    """Nothing can happen any more, or far too much does."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop over virtual seconds, which begin at 0."""

    def __init__(self):
        super().__init__()
        self.now_s = 0.0
        self._steps = 0
        self._selector = self
        self._clock_resolution = 1e-9

    def time(self):
        return self.now_s

    def select(self, timeout):
        """What a selector does: wait for input, which here never comes."""
        self._steps += 1
        if timeout is None:
            raise StuckError("nothing is scheduled: every task waits for another one")
        if self._steps > STEPS_MAX:
            raise StuckError(f"{STEPS_MAX} steps and no end, at {self.now_s:.3f} s")
        self.now_s += timeout
        return ()

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass
