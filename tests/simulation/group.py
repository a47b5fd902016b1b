"""The consumer group's coordinator, as Faust's workers meet it: eager rebalances, static members, sessions.

join        a member asks for partitions; all others hear of it at their next heartbeat, give everything back and
            join too; when all have, or `REBALANCE_S` is over, a new generation begins
static      a member that comes back under its name within the session gets what it had, and nobody else notices
session     who is silent for `SESSION_S` is out; a frozen process hears of it when it goes on
commit      accepted only from a member of the generation it names
"""

import asyncio
from dataclasses import dataclass, field

SESSION_S = 10.0
HEARTBEAT_S = 2.5
REBALANCE_S = 60.0


@dataclass
class Member:
    """One member: the process behind its name, and what it holds."""

    process: object
    seen_s: float
    assignment: list = field(default_factory=list)
    waiter: object = None


class Group:
    """The group of one line's workers; partitions of all their topics go by number."""

    def __init__(self, world, partitions):
        self.world, self._partitions = world, partitions
        self.generation = 0
        self.members = {}
        self.committed = {}
        self._deadline_s = None

    async def join(self, name, process):
        """Become a member; generation and partitions, once everybody has joined."""
        loop, known = asyncio.get_running_loop(), self.members.get(name)
        returns = known is not None and known.process is not process
        if returns and self._deadline_s is None and known.assignment:
            known.process, known.seen_s = process, loop.time()
            return self.generation, known.assignment
        waiter = loop.create_future()
        self.members[name] = Member(process, loop.time(), waiter=waiter)
        self._rebalance()
        self._complete_if_all()
        return await waiter

    def heartbeat(self, name, process, generation):
        """Whether the member may go on: `ok`, `rebalance`, or `unknown`."""
        member = self.members.get(name)
        if member is None or member.process is not process:
            return "unknown"
        member.seen_s = self.world.loop.time()
        return "rebalance" if self._deadline_s is not None or generation != self.generation else "ok"

    def leave(self, name, process):
        """A member says good-bye."""
        if name in self.members and self.members[name].process is process:
            self._drop(name)

    def commit(self, name, process, generation, offsets):
        """Note offsets; whether they were accepted."""
        if not self.is_current(name, process, generation):
            return False
        self.committed.update(offsets)
        self.world.oracle.committed(offsets)
        return True

    def is_current(self, name, process, generation):
        """Whether a process is a member of the newest generation."""
        member = self.members.get(name)
        return member is not None and member.process is process and generation == self.generation

    async def watch_sessions(self, broker):
        """Drop whoever is silent."""
        while True:
            await asyncio.sleep(2.0)
            if not broker.is_up:
                await broker.up()
                for member in self.members.values():
                    member.seen_s = self.world.loop.time()
            now_s = self.world.loop.time()
            for name, member in list(self.members.items()):
                if member.waiter is None and now_s - member.seen_s > SESSION_S:
                    self._drop(name)
            if self._deadline_s is not None and now_s >= self._deadline_s:
                for name, member in list(self.members.items()):
                    if member.waiter is None:
                        del self.members[name]
                self._complete_if_all()

    def shake(self):
        """Ask everybody to join again."""
        self._rebalance()

    def _drop(self, name):
        self.world.note("group", "drops", name)
        del self.members[name]
        if self.members:
            self._rebalance()
            self._complete_if_all()

    def _rebalance(self):
        if self._deadline_s is None:
            self._deadline_s = self.world.loop.time() + REBALANCE_S

    def _complete_if_all(self):
        if not self.members or any(member.waiter is None for member in self.members.values()):
            return
        self.generation += 1
        self._deadline_s = None
        names = sorted(self.members)
        turn = self.world.rng.randrange(len(names))
        for at, name in enumerate(names):
            member = self.members[name]
            member.assignment = [p for p in range(self._partitions) if (p + turn) % len(names) == at]
            member.seen_s = self.world.loop.time()
            if not member.waiter.done():  # else it died while it waited
                member.waiter.set_result((self.generation, member.assignment))
            member.waiter = None
            self.world.note("group", f"generation {self.generation}", name, member.assignment)
