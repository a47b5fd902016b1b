"""A fuzzer of the session's text parser: texts of strangers, in sequences, against everything a session promises.

Texts are good messages, damaged: bytes changed, cut, doubled, put together from others; and JSON made at random from
the protocol's own words. Whatever comes: nothing is raised, what is said is JSON of the protocol, an end has a code of
ours, nothing is said after it, and what waits is bounded.

    python -m tests.fuzz.session_text --seconds 3600 [--seed 1]
"""

import argparse
import json
import random
import sys
import time

from control.asyncapi import CLOSE_CODES, SERVER_MESSAGES
from runtime.auth import Principal, RefusedError
from runtime.auth_rules import Role
from tests.unit.ws_gateway.conftest import World
from ws_gateway.protocol import CLIENT_OPS, MESSAGES_BURST, OUTBOX_MAX, Session

WORDS = [
    *sorted(CLIENT_OPS), "op", "id", "stream", "tape", "line", "instrument", "fields", "radius", "dtype",
    "max_rate_hz", "policy", "from", "clock", "paused", "digest", "to", "bins", "factor", "token", "grid", "trades",
    "t1", "main", "GLBX.MDP3:ESH4", "live", "bin/3", "bin/99999999999999999999", "@5", "@-1",
    "t1/main/grid/GLBX.MDP3%3AESH4/1.0.0", "t1/main/grid/%ff/1.0.0", "conflate", "lossless", "f32", "f64", "max",
    "bin_seq", "rest_depth", "", "é", "\u0000", "\ud800",
]  # fmt: skip
NUMBERS = [
    "0",
    "1",
    "-1",
    "3",
    "1e308",
    "1e999",
    "NaN",
    "-0",
    "0.1",
    "4294967295",
    "4294967296",
    "9" * 30,
    "1E-400",
    "true",
]
SEEDS = [
    '{"op":"subscribe","id":1,"stream":"grid","tape":"t1","instrument":"GLBX.MDP3:ESH4"}',
    '{"op":"subscribe","id":2,"stream":"trades","tape":"t1","instrument":"GLBX.MDP3:ESH4","from":"live"}',
    '{"op":"subscribe","id":3,"tape":"t1","instrument":"GLBX.MDP3:ESH4","fields":["bin_seq"],"radius":2,"dtype":"f64"}',
    '{"op":"pause","id":1}', '{"op":"resume","id":1}', '{"op":"unsubscribe","id":1}', '{"op":"auth","token":"ann"}',
    '{"op":"seek","id":1,"to":"@5"}', '{"op":"step","id":1,"bins":2}', '{"op":"speed","id":1,"factor":"max"}',
]  # fmt: skip


class Guard:
    """Lets `ann` in."""

    def admit(self, token, now_ns):
        if token != "ann":
            raise RefusedError("forged")
        return Principal("ann", Role.TRADER, "key")

    def ended(self, who, now_ns):
        return ""


def value(rng, depth=0):
    """JSON text, not always right."""
    match rng.randrange(8):
        case 0 | 1 | 2:
            return json.dumps(rng.choice(WORDS))
        case 3 | 4:
            return rng.choice(NUMBERS)
        case 5 if depth < 6:
            return "[" + ",".join(value(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
        case 6 if depth < 6:
            return members(rng, depth)
        case _:
            return rng.choice(["null", "true", "false", "[]", "{}", "", "\\", '"\\u12"'])


def members(rng, depth=0):
    """An object of the protocol's words."""
    pairs = (f"{json.dumps(rng.choice(WORDS))}:{value(rng, depth + 1)}" for _ in range(rng.randrange(7)))
    return "{" + ",".join(pairs) + "}"


def damaged(rng, text):
    """A text with some places changed."""
    out = list(text)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = [chr(rng.choice((0, 9, 34, 44, 58, 91, 92, 93, 123, 125, rng.randrange(1, 0xD7FF))))]
            case 1:
                del out[at : at + rng.randrange(8)]
            case 2:
                out[at:at] = out[at : at + rng.randrange(20)]
            case 3:
                out[at:at] = list(value(rng))
            case _:
                out[at:at] = list(rng.choice('[{"\\') * rng.choice((1, 5, 300)))
    return "".join(out)


def texts(rng):
    """What one stranger sends."""
    for _ in range(rng.randint(1, 12)):
        match rng.randrange(6):
            case 0:
                yield rng.choice(SEEDS)
            case 1 | 2:
                yield damaged(rng, rng.choice(SEEDS))
            case 3:
                yield members(rng)
            case 4:
                good = json.loads(rng.choice(SEEDS))
                good[rng.choice(WORDS)] = rng.choice(
                    [*WORDS, 0, -1, 2**40, 1e300, None, True, [], [[]], {}, ["bin_seq"] * 70]
                )
                yield json.dumps(good)
            case _:
                yield rng.choice([value(rng), "", "x" * 9000, b"\0arrow", rng.choice(SEEDS)[: rng.randrange(40)]])


def one(seed):
    """One stranger; raises AssertionError, or whatever the session raises, if a promise is broken."""
    rng, world = random.Random(seed), World(cohorts=seed % 2 == 1)
    world.publish(rng.randrange(3))
    session = Session(world.hub, world.now, guard=Guard() if rng.random() < 0.3 else None)
    over = False
    for text in texts(rng):
        if rng.random() < 0.3:
            world.publish()
        session.receive(text, world.wait(rng.choice((0.0, 0.05, 1.1))))
        if rng.random() < 0.3:
            session.tick(world.now)
        assert len(session._outbox) <= OUTBOX_MAX + 2
        assert len(session._entries) <= MESSAGES_BURST
        for message in world.drain(session, 200):
            assert not over, "something was said after bye"
            if isinstance(message, dict):
                assert message["op"] in SERVER_MESSAGES
                over = message["op"] == "bye"
        if session.closing is not None:
            assert session.closing.code in CLOSE_CODES
            assert over
    session.release()
    assert not any(channel.readers or channel.cohorts for channel in world.hub.channels.values())


def run(first, count=None, seconds=None):
    """Strangers from seed `first` on, so many or so long; how many there were."""
    begin = time.monotonic()
    seed = first
    while (count is None or seed < first + count) and (seconds is None or time.monotonic() < begin + seconds):
        try:
            one(seed)
        except BaseException:
            sys.stderr.write(f"seed {seed} breaks a promise\n")
            raise
        seed += 1
    return seed - first


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    done = run(given.seed, seconds=given.seconds)
    print(f"{done:,} strangers in {given.seconds:g} s, from seed {given.seed}; no promise was broken")
