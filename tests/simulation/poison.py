"""Messages that a reducer cannot stomach: they raise, or take the whole process with them.

What is poisonous is a plan of the world, by stage, partition and seq (its first part), so every worker meets it
in the same place:

    raises     an unexpected exception, every time; the third time the message is skipped
    kills      the process dies in the middle of it, every time; the tenth time it is skipped
    stumbles   an exception that has its cause elsewhere: once or twice, then the message is fine
    turns      fine the first time, an exception ever after: no such thing should exist, since its outputs are out
               already; it must not be skipped, and the stage stays down
"""

RAISES, KILLS, STUMBLES, TURNS = "raises", "kills", "stumbles", "turns"


class PoisonedReducer:
    """A reducer of production whose thread can be left in the middle of `apply`."""

    def __init__(self, reducer, stage, process):
        self._reducer, self._stage, self._process = reducer, stage, process

    def apply(self, message):
        world = self._process.world
        self._process.step()
        seq = world.seq_of(message)
        plan, left = world.poison.get((self._stage, message.partition, seq), ("", 0))
        if message.envelope.part:
            plan = ""  # the first part is the poisonous one
        rows = self._reducer.apply(message)
        if plan == KILLS:
            world.tally["poison: kills"] += 1
            next(rows, None)
            self._process.kill("poison")
            self._process.check()
        if plan == TURNS and left > 0:
            world.poison[self._stage, message.partition, seq] = plan, 0
        elif plan in (RAISES, TURNS) or (plan == STUMBLES and left > 0):
            world.tally[f"poison: {plan}"] += 1
            world.poison[self._stage, message.partition, seq] = plan, left - 1
            next(rows, None)  # half-way through
            raise ZeroDivisionError("of all things")
        for part in rows:
            yield part
            self._process.step(0.001)

    def skip(self, message, reason):
        return self._reducer.skip(message, reason)

    def stamp(self, message):
        return self._reducer.stamp(message)

    def snapshot(self):
        return self._reducer.snapshot()

    def restore(self, pieces):
        self._reducer.restore(pieces)
