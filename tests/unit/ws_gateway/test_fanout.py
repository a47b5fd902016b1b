"""Who gets which row: nobody is lied to, whatever the order of publishing, pulling and pausing."""

import json

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ws_gateway.fanout import Gap, Tape
from ws_gateway.frames import Flag, Kind
from ws_gateway.subscription import BACKLOG_ROWS_MAX

FIELDS = ["bin_seq", "add_mass"]


def bins_of(messages):
    """Bin numbers in the data messages of one subscription, read as the Arrow stream that they are."""
    payloads = b"".join(m[1] for m in messages if isinstance(m, tuple))
    return pa.ipc.open_stream(payloads).read_all()["bin_seq"].to_pylist() if payloads else []


def data(messages, kind=Kind.BATCH):
    return [m[0] for m in messages if isinstance(m, tuple) and m[0]["kind"] == kind]


def test_live_starts_with_the_newest_row_and_goes_on_with_each(world):
    world.publish(5)
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS)
    world.publish(3)
    seen += world.drain(session)
    assert bins_of(seen) == [4, 5, 6, 7]
    assert [h["number"] for h in data(seen)] == [1, 2, 3, 4]


def test_a_burst_below_the_limit_is_delivered_whole(world):
    world.publish()
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS)
    world.publish(500)
    seen += world.drain(session)
    assert bins_of(seen) == list(range(501))
    assert all(h["left_out"] == 0 for h in data(seen))


def test_a_reader_too_far_behind_gets_the_newest_and_the_count(make_world):
    world = make_world()
    world.publish()
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS, radius=1)
    world.publish(BACKLOG_ROWS_MAX + 1)
    seen += world.drain(session)
    assert bins_of(seen) == [0, BACKLOG_ROWS_MAX + 1]
    last = data(seen)[-1]
    assert last["left_out"] == BACKLOG_ROWS_MAX
    assert last["flags"] == Flag.CONFLATED
    world.publish()
    after = data(world.drain(session))[0]
    assert (after["left_out"], after["flags"]) == (0, 0)


def test_the_limit_is_in_bytes_too(make_world):
    world = make_world()
    world.publish(radius=400)
    session = world.session()
    everything = ["bin_seq", "add_mass", "pull_mass", "fill_mass", "bid_depth", "ask_depth", "v_add", "v_pull"]
    seen = world.subscribe(session, fields=everything, dtype="f64")
    world.publish(60, radius=400)
    seen += world.drain(session)
    assert bins_of(seen) == [0, 60]


def test_a_rate_limit_sends_the_newest_when_due_and_counts_the_rest(world):
    world.publish()
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS, max_rate_hz=2)
    world.publish(7)
    assert world.drain(session) == []
    assert session.next_due_ns() == world.ns + 500_000_000
    world.wait(0.5)
    later = world.drain(session)
    assert bins_of(seen + later) == [0, 7]
    assert data(later)[0]["left_out"] == 6


def test_rows_of_one_block_travel_together(world):
    world.publish(rows=150)
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS, **{"from": "bin/0"})
    assert bins_of(seen) == list(range(150))
    assert len(data(seen)) == 3
    assert all(h["flags"] == Flag.REPLAYED for h in data(seen))


def test_from_a_cursor_every_later_row_comes_once(world, names):
    world.publish(20)
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS, **{"from": f"{names['tape']}/main/grid/GLBX.MDP3%3AESH4/11.0.0"})
    world.publish(5)
    seen += world.drain(session)
    assert bins_of(seen) == list(range(12, 25))
    assert [h["flags"] for h in data(seen)] == [Flag.REPLAYED] + [0] * 5


def test_replayed_rows_have_no_age_and_live_ones_do(world):
    arrived = world.now.wall_ns
    world.publish(arrived_ns=arrived)
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS, **{"from": "bin/0"})
    assert data(seen)[0]["age_us"] == 0
    world.publish(arrived_ns=arrived)
    world.wait(0.003)
    assert data(world.drain(session))[0]["age_us"] == 3000


def test_a_reader_of_what_is_live_that_the_ring_left_behind_is_taken_to_the_newest(make_world):
    world = make_world(ring_bytes_max=10_000)
    world.publish(5)
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS)
    world.say(session, op="pause", id=1)
    world.publish(100)
    seen += world.say(session, op="resume", id=1)
    assert bins_of(seen) == [4, 104]
    assert data(seen)[-1]["left_out"] == 99


def test_what_left_the_ring_before_a_replay_took_it_is_told_as_a_gap(make_world, names):
    world = make_world(ring_bytes_max=10_000)
    world.publish(5)
    session = world.session()
    world.subscribe(session, fields=FIELDS)
    session.receive(
        json.dumps({"op": "seek", "id": 1, "to": f"{names['tape']}/main/grid/GLBX.MDP3%3AESH4/2.0.0"}), world.now
    )
    world.publish(100)
    seen = world.drain(session)
    gap = next(m for m in seen if isinstance(m, dict) and m["op"] == "gap")
    assert gap["from"].endswith("/2.0.0")
    assert gap["to"].endswith("/95.0.0")
    assert gap["epoch"] == 3
    assert bins_of([({"kind": 0}, _schema(world))] + [m for m in seen if isinstance(m, tuple)]) == list(range(95, 105))
    assert data(seen)[0]["flags"] & Flag.GAP_BEFORE


def test_a_hole_in_the_topic_is_told_once_before_its_row(world, names, blocks):
    world.publish(2)
    session = world.session()
    world.subscribe(session, fields=FIELDS)
    world.hub.publish(names["bins"], blocks(9), world.ns, gap=Gap(2, 9, "missing"))
    seen = world.drain(session)
    assert [m["op"] if isinstance(m, dict) else m[0]["flags"] for m in seen] == ["gap", Flag.GAP_BEFORE]
    assert (seen[0]["from"][-6:], seen[0]["to"][-6:], seen[0]["cause"]) == ("/2.0.0", "/9.0.0", "missing")
    world.publish(1)
    assert all(not isinstance(m, dict) for m in world.drain(session))


def test_an_end_comes_after_the_last_row_and_closes_the_arrow_stream(world, names, blocks):
    world.publish()
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS)
    world.hub.publish(names["bins"], blocks(1, rows=2), world.ns, end=True)
    seen += world.drain(session)
    assert [m[0]["kind"] for m in seen if isinstance(m, tuple)] == [Kind.SCHEMA, Kind.BATCH, Kind.BATCH, Kind.END]
    assert bins_of(seen) == [0, 1, 2]
    assert world.drain(session) == []


def test_a_subscription_before_the_first_row_waits_for_its_schema(world):
    session = world.session()
    seen = world.subscribe(session, fields=FIELDS)
    assert [m["op"] for m in seen] == ["hello", "subscribed"]
    world.publish(3)
    assert bins_of(world.drain(session)) == [0, 1, 2]


def test_a_radius_beyond_the_lines_is_refused_at_once_or_when_it_is_known(world):
    early = world.session()
    world.subscribe(early, radius=9)
    world.publish(radius=5)
    assert [m["code"] for m in world.drain(early)] == ["bad_radius"]
    assert world.subscribe(world.session(), radius=9)[-1]["code"] == "bad_radius"


def test_a_smaller_radius_is_cut_around_the_centre(world):
    world.publish()
    seen = world.subscribe(world.session(), fields=["add_mass"], radius=2)
    table = pa.ipc.open_stream(b"".join(m[1] for m in seen if isinstance(m, tuple))).read_all()
    assert table["add_mass"].to_pylist() == [[3.0, 4.0, 5.0, 6.0, 7.0]]


def test_a_changed_radius_of_the_line_ends_the_connection_with_4004(world):
    world.publish(radius=5)
    session = world.session()
    world.subscribe(session)
    world.publish(radius=3)
    assert world.drain(session)[-1]["code"] == 4004
    assert session.closing.code == 4004


def test_a_replaced_tape_ends_its_subscriptions(world, names):
    world.publish()
    session = world.session()
    world.subscribe(session)
    world.hub.set_tapes({names["tape"]: Tape("id-2", ("main",), (names["instrument"],))})
    assert world.drain(session)[-1]["code"] == "tape_replaced"
    assert world.hub.budget.held_bytes == 0
    assert world.subscribe(session)[-1]["op"] == "subscribed"


def test_equal_subscriptions_share_one_encoding(world):
    sessions = [world.session() for _ in range(20)]
    world.publish()
    for session in sessions:
        world.subscribe(session, fields=FIELDS)
    world.publish(10)
    payloads = {bytes(m[1]) for s in sessions for m in world.drain(s) if isinstance(m, tuple)}
    channel = next(iter(world.hub.channels.values()))
    assert [e.encoded for e in channel.encoders.values()] == [11]
    assert len(payloads) == 10


def test_encoders_go_with_their_last_subscription(world):
    world.publish()
    session = world.session()
    world.subscribe(session, fields=FIELDS)
    channel = next(iter(world.hub.channels.values()))
    assert len(channel.encoders) == 1
    world.say(session, op="unsubscribe", id=1)
    assert len(channel.encoders) == 0
    assert not channel.readers


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 400)),
        st.tuples(st.just("pull"), st.integers(1, 30)),
        st.tuples(st.just("wait"), st.integers(1, 900)),
        st.tuples(st.sampled_from(["pause", "resume"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([None, 3, 50]), st.sampled_from([1, 5]), st.sampled_from([30_000, 10**9]))
def test_every_row_is_sent_once_or_counted_or_told_as_a_gap(make_world, steps, rate, rows, ring_bytes):
    world = make_world(ring_bytes_max=ring_bytes)
    world.publish(rows=rows)
    session = world.session()
    asked = {} if rate is None else {"max_rate_hz": rate}
    seen = world.subscribe(session, fields=FIELDS, **asked)
    for step, amount in steps:
        if step == "publish":
            world.publish(amount, rows=rows)
        elif step == "pull":
            seen += world.drain(session, amount)
        elif step == "wait":
            world.wait(amount / 1000)
        else:
            seen += world.say(session, op=step, id=1)
    seen += world.say(session, op="resume", id=1)
    for _ in range(3):
        world.wait(1)
        seen += world.drain(session)
    account(seen, world.seq * rows, rows)


def account(messages, published, rows):
    """Walk the messages of one subscription: the numbers must explain every row after the first."""
    expected, number = None, 0
    gap_to = None
    for message in messages:
        if isinstance(message, dict):
            if message["op"] == "gap":
                seq, _, row = message["to"].rpartition("/")[2].split(".")
                gap_to = int(seq) * rows + int(row)
            continue
        head, payload = message
        assert head["number"] == number
        number += 1
        if head["kind"] == Kind.SCHEMA:
            schema = payload
            continue
        got = pa.ipc.open_stream(schema + payload).read_all()["bin_seq"].to_pylist()
        if expected is not None:
            start = expected if gap_to is None else gap_to
            assert got[0] == start + head["left_out"]
        gap_to = None
        assert got == list(range(got[0], got[0] + len(got)))
        expected = got[-1] + 1
    assert expected == published


def _schema(world):
    channel = next(iter(world.hub.channels.values()))
    return next(iter(channel.encoders.values())).schema_frame.payload


def test_an_alias_is_followed_to_its_tape_and_line(world, names):
    tape = Tape("id-1", ("main", "tuned"), (names["instrument"],))
    world.hub.set_tapes({names["tape"]: tape}, {"best": (names["tape"], "tuned")})
    session = world.session()
    assert world.drain(session)[0]["aliases"] == {"best": f"{names['tape']}/tuned"}
    assert world.subscribe(session, tape="best")[-1]["op"] == "subscribed"
    assert {(c.tape, c.line) for c in world.hub.channels} == {(names["tape"], "tuned")}


def test_those_who_wait_for_the_newest_row_get_it_together_and_everything_else_alone(make_world):
    world = make_world(cohorts=True)
    world.publish(3)
    sessions = [world.session() for _ in range(5)]
    seen = [world.subscribe(s, number=n, fields=FIELDS) for n, s in enumerate(sessions)]
    world.publish(4)
    seen = [before + world.drain(s) for before, s in zip(seen, sessions, strict=True)]
    assert world.crew.together == 20
    for number, messages in enumerate(seen):
        heads = [m[0] for m in messages if isinstance(m, tuple)]
        assert [h["number"] for h in heads] == list(range(6))
        assert {h["id"] for h in heads} == {number}
    world.say(sessions[0], op="pause", id=0)
    world.publish(2)
    assert world.drain(sessions[0]) == []
    assert [h["number"] for h, _ in world.drain(sessions[1])] == [6, 7]
    again = world.say(sessions[0], op="resume", id=0)
    assert [m[0]["number"] for m in again if isinstance(m, tuple)] == [6, 7]
    assert world.crew.together == 28


def test_a_member_whose_socket_is_full_goes_by_itself_and_comes_back(make_world):
    world = make_world(cohorts=True)
    world.publish()
    slow, good = world.session(), world.session()
    for session in (slow, good):
        world.subscribe(session, fields=FIELDS, policy="lossless")
    world.wires[slow].full = True
    for _ in range(5):
        world.publish()
        world.drain(good)
    assert world.crew.together == 6, "one for both, then four for one"
    world.wires[slow].full = False
    assert [h["number"] for h, _ in world.drain(slow)] == [2, 3, 4, 5, 6]
    world.publish()
    assert [h["number"] for h, _ in world.drain(slow)] == [7]
    assert world.crew.together == 8


def test_positions_of_members_are_where_they_are(make_world):
    world = make_world(cohorts=True)
    world.publish()
    sessions = [world.session() for _ in range(2)]
    for session in sessions:
        world.subscribe(session, fields=FIELDS)
    world.publish(2)
    world.wait(1.1)
    for session in sessions:
        world.drain(session)
        assert session.tick(world.now)
        (told,) = world.drain(session)
        assert told["op"] == "position"
        assert told["cursor"].endswith("/2.0.0")
        assert told["live"]
    world.say(sessions[0], op="unsubscribe", id=1)
    world.say(sessions[1], op="unsubscribe", id=1)
    channel = next(iter(world.hub.channels.values()))
    assert not channel.cohorts
    assert not channel.readers
