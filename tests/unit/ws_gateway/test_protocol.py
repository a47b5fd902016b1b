"""The session: every row of its table, everything that is in no row, and every offence."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.auth import Principal, RefusedError
from runtime.auth_rules import Role
from tests.unit.ws_gateway.conftest import INSTRUMENT, TAPE
from ws_gateway.frames import Kind
from ws_gateway.protocol import (
    CLIENT_OPS,
    MESSAGES_BURST,
    OUTBOX_MAX,
    SUBSCRIPTIONS_MAX,
    TABLE,
    Code,
    Phase,
    Session,
    Track,
)


def ops(messages):
    return [m["op"] if isinstance(m, dict) else Kind(m[0]["kind"]).name for m in messages]


def reach(world, track):
    """A session with subscription 1 on that track."""
    session = world.session()
    world.drain(session)
    if track is Track.NONE:
        return session
    world.publish()
    world.subscribe(session)
    if track is Track.PAUSED:
        world.say(session, op="pause", id=1)
    if track is Track.ENDED:
        world.hub.hear(next(iter(world.hub.channels)), world.ns, end=True)
        world.drain(session)
    return session


def track_of(session):
    entry = session._entries.get(1)
    return entry.track if entry else Track.NONE


def test_hello_comes_first_and_says_what_exists(world):
    (hello,) = world.drain(world.session())
    assert hello["op"] == "hello"
    assert (hello["protocol"], hello["version"], hello["heartbeat_s"]) == ("barograph.v1", 1, 1.0)
    assert hello["tapes"] == ["t1"]
    assert hello["lines"] == {"t1": ["main"]}
    assert hello["instruments"] == {"t1": ["GLBX.MDP3:ESH4"]}
    assert hello["limits"]["subscriptions"] == SUBSCRIPTIONS_MAX


def test_subscribed_says_what_was_agreed(world):
    world.publish()
    answer = world.subscribe(world.session(), fields=["rest_depth", "bin_seq"], radius=2, dtype="f64")[1]
    assert answer["op"] == "subscribed"
    assert answer["cursor"] == "t1/main/grid/GLBX.MDP3%3AESH4/0.0.0"
    assert answer["runtime_config"]["radius"] == 2
    assert answer["runtime_config"]["dtype"] == "f64"
    assert answer["runtime_config"]["run"] == "run-1"
    assert {"name": "rest_depth", "unit": "lots"} in answer["fields"]
    assert answer["fields"][0]["name"] == "bin_seq"


@pytest.mark.parametrize("key", [k for k in TABLE if k[0] is Phase.OPEN and k[2] in CLIENT_OPS], ids=str)
def test_every_row_that_clients_can_reach_leads_where_it_says(world, key):
    _, track, op = key
    session = reach(world, track)
    extra = {"stream": "grid", "tape": "t1", "instrument": "GLBX.MDP3:ESH4"} if op == "subscribe" else {"token": "x"}
    extra |= {"seek": {"to": "bin/0"}, "speed": {"factor": "max"}}.get(op, {})
    if (track, op) == (Track.RUNNING, "speed"):
        world.say(session, op="pause", id=1)
        world.publish(3)
        world.say(session, op="speed", id=1, factor=0.01)
        world.say(session, op="resume", id=1)
    asked = extra if op in ("subscribe", "auth", "seek", "speed") else {}
    session.receive(json.dumps({"op": op, "id": 1, **asked}), world.now)
    assert track_of(session) is TABLE[key].track
    assert "error" not in ops(world.drain(session))
    assert session.phase is TABLE[key].phase


MISSING = [
    (track, op) for track in Track for op in sorted(CLIENT_OPS) if op != "auth" and (Phase.OPEN, track, op) not in TABLE
]


@pytest.mark.parametrize(("track", "op"), MISSING, ids=str)
def test_what_is_in_no_row_is_refused_and_changes_nothing(world, track, op):
    session = reach(world, track)
    (error,) = [m for m in world.say(session, op=op, id=1) if isinstance(m, dict)]
    expected = "duplicate_id" if op == "subscribe" else "ended" if track is Track.ENDED else "unknown_id"
    assert (error["op"], error["code"], error["id"], error["refused"]) == ("error", expected, 1, op)
    assert track_of(session) is track
    assert session.closing is None


def test_paused_subscriptions_say_nothing_until_resumed(world):
    session = reach(world, Track.PAUSED)
    world.publish(3)
    assert world.drain(session) == []
    assert ops(world.say(session, op="resume", id=1)) == ["BATCH"] * 3


def test_subscriptions_take_turns_and_control_goes_first(world):
    world.publish(1)
    session = world.session()
    world.subscribe(session, 1)
    world.subscribe(session, 2)
    world.publish(2)
    session.receive(json.dumps({"op": "pause", "id": 9}), world.now)
    seen = world.drain(session)
    assert ops(seen)[0] == "error"
    assert [m[0]["id"] for m in seen[1:]] in ([1, 2, 1, 2], [2, 1, 2, 1])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nonsense", "JSON"),
        ('{"op":"auth","op":"auth"}', "twice"),
        ('{"op":NaN}', "NaN"),
        ("[" * 99, "deep"),
        ('"' + "x" * 9000 + '"', "at most"),
        (b"\x00arrow", "text only"),
    ],
)
def test_offences_end_the_connection_with_1008(world, text, word):
    session = reach(world, Track.RUNNING)
    session.receive(text, world.now)
    (bye,) = world.drain(session)
    assert (bye["op"], bye["code"]) == ("bye", Code.POLICY)
    assert word in bye["reason"]
    assert bye["retry_after_ms"] > 0
    assert session.closing.code == Code.POLICY
    assert not world.hub.channels[next(iter(world.hub.channels))].readers


@pytest.mark.parametrize("message", [{}, {"op": 3}, {"op": "nope"}, {"op": "pause"}, {"op": "pause", "id": "1"}])
def test_mistakes_are_errors_and_the_connection_goes_on(world, message):
    session = world.session()
    world.drain(session)
    assert ops(world.say(session, **message)) == ["error"]
    assert session.closing is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tape": "other"}, "unknown_tape"),
        ({"line": "other"}, "unknown_line"),
        ({"instrument": "A:B"}, "unknown_instrument"),
        ({"from": "t1/main/grid/A%3AB/1.0.0"}, "bad_cursor"),
        ({"from": "bin/3", "stream": "trades"}, "bad_field"),
    ],
)
def test_what_cannot_be_subscribed_is_refused_by_code(world, change, code):
    error = world.subscribe(world.session(), **change)[-1]
    assert (error["op"], error["code"], error["id"]) == ("error", code, 1)


def test_a_flood_of_control_messages_ends_the_connection(world):
    session = world.session()
    for _ in range(int(MESSAGES_BURST)):
        session.receive('{"op":"auth","token":""}', world.now)
    assert session.closing is None
    session.receive('{"op":"auth","token":""}', world.now)
    assert session.closing.code == Code.POLICY


def test_a_patient_client_never_meets_the_rate_limit(world):
    session = world.session()
    for _ in range(500):
        world.wait(0.021)
        session.receive('{"op":"auth","token":""}', world.now)
    assert session.closing is None


def test_subscriptions_are_limited(world):
    session = world.session()
    for number in range(SUBSCRIPTIONS_MAX):
        assert world.subscribe(session, number)[-1]["op"] == "subscribed"
    assert world.subscribe(session, 99)[-1]["code"] == "too_many"


def test_a_client_that_never_reads_control_messages_is_closed(world):
    session = world.session()
    world.publish()
    for number in range(SUBSCRIPTIONS_MAX):
        session.receive(
            json.dumps({"op": "subscribe", "id": number, "tape": "t1", "instrument": "GLBX.MDP3:ESH4"}), world.now
        )
    for _ in range(OUTBOX_MAX):
        session.tick(world.wait(1.1))
    assert session.closing.code == Code.SLOW
    assert ops(world.drain(session)) == ["bye"]


def test_position_comes_each_second_and_stale_after_two(world):
    world.publish()
    session = world.session()
    world.subscribe(session)
    session.tick(world.wait(0.5))
    assert world.drain(session) == []
    session.tick(world.wait(0.6))
    (position,) = world.drain(session)
    assert position == {
        "op": "position",
        "id": 1,
        "cursor": "t1/main/grid/GLBX.MDP3%3AESH4/0.0.0",
        "lag_ms": 0,
        "live": True,
    }
    session.tick(world.wait(1.0))
    assert ops(world.drain(session)) == ["position", "stale"]
    session.tick(world.wait(1.0))
    assert [m["age_ms"] for m in world.drain(session) if m["op"] == "stale"] == [3100]


def test_markers_keep_a_quiet_stream_from_being_stale(world, names):
    world.publish()
    session = world.session()
    world.subscribe(session)
    for _ in range(4):
        world.hub.hear(names["bins"], world.ns)
        session.tick(world.wait(1.1))
    assert set(ops(world.drain(session))) == {"position"}


def test_an_ended_tape_is_never_stale(world):
    session = reach(world, Track.ENDED)
    session.tick(world.wait(60))
    assert ops(world.drain(session)) == ["position"]


def test_lag_is_event_time_between_the_newest_row_and_the_last_sent(world):
    session = reach(world, Track.PAUSED)
    world.publish(5)
    session.tick(world.wait(1.1))
    assert world.drain(session)[0]["lag_ms"] == 500


def test_rows_left_out_are_told_in_words_once(world):
    world.publish()
    session = world.session()
    world.subscribe(session, max_rate_hz=1)
    world.publish(5)
    world.wait(1.1)
    world.drain(session)
    session.tick(world.now)
    assert [m["count"] for m in world.drain(session) if m["op"] == "dropped"] == [4]
    session.tick(world.wait(1.1))
    assert "dropped" not in ops(world.drain(session))


def test_drain_says_bye_with_1012_and_when_to_come_back(world):
    session = reach(world, Track.RUNNING)
    world.publish(3)
    session.drain(world.now)
    (bye,) = world.drain(session)
    assert (bye["code"], bye["retry_after_ms"] > 0) == (1012, True)
    assert session.closing.code == 1012
    session.drain(world.now)
    session.tick(world.wait(9))
    session.receive('{"op":"auth","token":""}', world.now)
    assert world.drain(session) == []


class Guard:
    """Knows tokens that read `NAME ROLE`; the test says who has ended."""

    def __init__(self):
        self.gone = {}

    def admit(self, token, now_ns):
        name, _, role = token.partition(" ")
        if role not in ("viewer", "trader", "admin"):
            raise RefusedError("forged")
        return Principal(name, Role(role), "key")

    def ended(self, who, now_ns):
        return self.gone.get(who.subject, "")


def test_where_a_token_is_needed_nothing_comes_before_it(world):
    session = world.session(guard=Guard())
    assert world.drain(session) == []
    assert world.subscribe(session)[-1]["code"] == "unauthenticated"
    (hello,) = world.say(session, op="auth", token="ann viewer")
    assert (hello["op"], hello["may"]) == ("hello", ["auth", "pause", "resume", "subscribe", "unsubscribe"])
    assert session.phase is Phase.OPEN
    assert session.principal.subject == "ann"


def test_whoever_was_admitted_at_the_door_needs_no_more(world):
    session = world.session(guard=Guard(), principal=Principal("ann", Role.VIEWER, "key"))
    assert ops(world.drain(session)) == ["hello"]


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.OPEN])
def test_a_bad_token_closes_with_4003(world, phase):
    noted = []
    session = world.session(guard=Guard(), on_refused=lambda *what: noted.append(what))
    if phase is Phase.OPEN:
        world.say(session, op="auth", token="ann viewer")
    assert ops(world.say(session, op="auth", token="bad")) == ["bye"]
    assert session.closing.code == Code.TOKEN
    assert noted == [("forged", "ws")]
    assert "forged" not in session.closing.reason


def test_no_token_in_time_closes(world):
    session = world.session(guard=Guard())
    session.tick(world.wait(4.9))
    assert session.closing is None
    session.tick(world.wait(0.2))
    assert session.closing.code == Code.POLICY


@pytest.mark.parametrize("why", ["expired", "revoked", "unknown"])
def test_a_token_that_ends_ends_its_session_within_a_tick(world, why):
    guard = Guard()
    session = world.session(guard=guard)
    world.say(session, op="auth", token="ann viewer")
    session.tick(world.wait(0.25))
    assert session.closing is None
    guard.gone["ann"] = why
    session.tick(world.wait(0.25))
    assert session.closing.code == Code.TOKEN


def test_a_token_is_refreshed_in_band_by_the_same_user(world):
    session = world.session(guard=Guard())
    world.say(session, op="auth", token="ann viewer")
    assert world.say(session, op="auth", token="ann trader") == []
    assert session.principal.role is Role.TRADER
    assert world.say(session, op="auth", token="bob admin")[-1]["code"] == "another_user"
    assert session.principal.subject == "ann"
    assert session.closing is None


@pytest.mark.parametrize("op", ["pause", "resume", "step", "seek", "speed"])
def test_whoever_may_have_no_clock_any_more_moves_none(world, op):
    """Ann was a trader when she took a clock; as a viewer she is still on it, and others of hers are too."""
    noted = []
    world.publish(3)
    session = world.session(guard=Guard(), on_refused=lambda *what: noted.append(what))
    world.say(session, op="auth", token="ann trader")
    assert "subscribed" in ops(world.subscribe(session, clock="c"))
    clock = session._entries[1].subscription.clock
    assert world.say(session, op="auth", token="ann viewer") == []
    before = (clock.paused, clock.turn, clock.factor)
    known = {"seek": {"to": "bin/1"}, "speed": {"factor": 2}}.get(op, {})
    assert world.say(session, op=op, id=1, **known)[-1]["code"] == "forbidden"
    assert (clock.paused, clock.turn, clock.factor) == before
    assert noted[-1][0] == "forbidden"


def test_a_clock_of_that_name_is_each_users_own(world):
    world.publish(3)
    sessions = []
    for token in ("ann trader", "bob trader", "eve admin"):
        session = world.session(guard=Guard())
        world.say(session, op="auth", token=token)
        world.subscribe(session, clock="c")
        sessions.append(session)
    world.say(sessions[1], op="pause", id=1)
    assert [s._entries[1].subscription.clock.paused for s in sessions] == [False, True, False]


@pytest.mark.parametrize("known", [{"clock": "c"}, {"from": "@5"}, {"from": "bin/0"}])
def test_what_an_address_asks_for_passes_the_same_judge(world, known):
    noted = []
    world.publish(3)
    opening = [{"op": "subscribe", "id": 1, "tape": TAPE, "instrument": INSTRUMENT, **known}]
    session = world.session(guard=Guard(), opening=opening, on_refused=lambda *what: noted.append(what))
    said = world.say(session, op="auth", token="ann viewer")
    assert ops(said) == ["hello", "error"]
    assert said[-1]["code"] == "forbidden"
    assert session._entries == {}
    assert noted[-1][0] == "forbidden"
    other = world.session(guard=Guard(), opening=opening)
    assert "subscribed" in ops(world.say(other, op="auth", token="ann trader"))


def test_a_viewer_may_begin_paused_and_go_on(world):
    world.publish(3)
    session = world.session(guard=Guard())
    world.say(session, op="auth", token="ann viewer")
    world.subscribe(session, paused=True)
    world.publish()
    assert [m for m in world.drain(session) if isinstance(m, tuple) and m[0]["kind"] == Kind.BATCH] == []
    kinds = [m[0]["kind"] for m in world.say(session, op="resume", id=1) if isinstance(m, tuple)]
    assert kinds == [Kind.BATCH] * 2, "the newest row as it was, and the one that came since"


def test_each_refusal_is_noted(world):
    noted = []
    session = world.session(guard=Guard(), on_refused=lambda *what: noted.append(what))
    world.subscribe(session)
    world.say(session, op="auth", token="ann viewer")
    world.say(session, op="auth", token="bob viewer")
    world.say(session, op="step", id=1)
    assert noted == [("unauthenticated", "ws subscribe"), ("another_user", "ws auth"), ("forbidden", "ws step")]


def test_a_token_that_has_ended_already_opens_nothing(world):
    guard = Guard()
    guard.gone["ann"] = "expired"
    session = world.session(guard=guard)
    assert ops(world.say(session, op="auth", token="ann viewer")) == ["bye"]


@pytest.mark.parametrize(
    "message",
    [
        {"op": "subscribe", "from": "@5"}, {"op": "subscribe", "from": "bin/0"}, {"op": "subscribe", "clock": "c"},
        {"op": "seek", "to": "@5"}, {"op": "step"}, {"op": "speed", "factor": 2},
    ],
)  # fmt: skip
def test_viewers_do_not_replay(world, message):
    noted = []
    session = world.session(guard=Guard(), on_refused=lambda *what: noted.append(what))
    world.say(session, op="auth", token="ann viewer")
    asked = {"stream": "grid", "tape": "t1", "instrument": "GLBX.MDP3:ESH4"} if message["op"] == "subscribe" else {}
    assert world.say(session, id=1, **asked, **message)[-1]["code"] == "forbidden"
    assert noted[0][0] == "forbidden"
    world.say(session, op="auth", token="ann trader")
    assert all(
        m.get("code") != "forbidden" for m in world.say(session, id=1, **asked, **message) if isinstance(m, dict)
    )


def test_release_lets_go_of_every_channel(world):
    session = reach(world, Track.RUNNING)
    channel = next(iter(world.hub.channels.values()))
    assert channel.readers or channel.cohorts
    session.release()
    assert not channel.readers
    assert not channel.cohorts
    session.receive('{"op":"pause","id":1}', world.now)
    assert world.drain(session) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {"op": st.sampled_from(sorted(CLIENT_OPS)), "id": st.integers(-1, 3)},
    optional={
        "stream": st.sampled_from(["grid", "bins", "trades", "x"]),
        "tape": st.sampled_from(["t1", "t2"]),
        "instrument": st.just("GLBX.MDP3:ESH4"),
        "fields": JSON,
        "radius": JSON,
        "from": st.sampled_from(["live", "bin/0", "@5"]) | JSON,
        "max_rate_hz": JSON,
        "token": JSON,
    },
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(MESSAGES.map(json.dumps), JSON.map(json.dumps), st.text(), st.binary(max_size=4)), max_size=12)
)
def test_no_input_breaks_a_session(make_world, inputs):
    world = make_world()
    session = Session(world.hub, world.now)
    for text in inputs:
        world.publish()
        session.receive(text, world.now)
        world.drain(session, 50)
        session.tick(world.wait(0.4))
    assert (session.phase is Phase.CLOSED) == (session.closing is not None)
    assert set(session._turns) == set(session._entries)
