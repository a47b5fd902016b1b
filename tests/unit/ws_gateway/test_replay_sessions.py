"""Sessions in the past: seek, pause, step, speed, shared clocks, digests, policies; a past that lies in a list."""

import json
from hashlib import sha256

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.ws_gateway.conftest import BINS, INSTRUMENT, TAPE, TRADES, World, bins_block, trades_block
from ws_gateway.frames import Flag, Kind
from ws_gateway.library import Failure, Library, Missing, Segment
from ws_gateway.request import Refusal
from ws_gateway.rings import row_from_bin, row_from_time

FIELDS = ["bin_seq", "add_mass"]
CELL_NS = 100_000_000


class Archive:
    """Everything that was ever published, given out in segments of a few blocks, as workers would read it."""

    def __init__(self, library, blocks_a_segment=3):
        self.library, self.size = library, blocks_a_segment
        self.blocks = {BINS: [], TRADES: []}
        self.kept_from = 0
        self.jobs = 0
        self.broken = None

    def serve(self, mono_ns, most=1000):
        for _ in range(most):
            want = self.library.take_job()
            if want is None:
                return
            self.jobs += 1
            self.library.finish(want, self.broken or self._read(want, mono_ns))

    def _read(self, want, mono_ns):
        blocks = self.blocks[want.name]
        place = max((0, 0), want.place)
        if want.start.kind != "cursor":
            find = row_from_bin if want.start.kind == "bin" else row_from_time
            place = next((b.place for b in blocks if find(b, want.start.value) < b.rows), (10**6, 0))
        missing = None
        if place < (self.kept_from, 0) and want.start.kind == "cursor":
            missing = Missing(place, (self.kept_from, 0), "no longer kept", retention=True)
        place = max(place, (self.kept_from, 0))
        found = [b for b in blocks if b.place >= place]
        part = tuple(found[: self.size])
        until = (part[-1].seq + 1, 0) if part else place
        return Segment(place, until, part, len(found) <= self.size, False, missing, mono_ns)


class Past(World):
    """A world whose ring holds ten bins, with an archive of all of them."""

    def __init__(self, ring_bytes_max=10_000, cohorts=False):
        library = Library()
        super().__init__(ring_bytes_max, library, cohorts)
        self.archive = Archive(library)

    def publish(self, count=1, rows=1, **known):
        for _ in range(count):
            block = bins_block(self.seq, rows, first_bin=self.seq * rows, **known)
            self.archive.blocks[BINS].append(block)
            self.hub.publish(BINS, block, self.ns)
            self.seq += 1

    def publish_trades(self, seq, rows=1):
        block = trades_block(seq, rows)
        self.archive.blocks[TRADES].append(block)
        self.hub.publish(TRADES, block, self.ns)

    def drain(self, session, most=10_000):
        out = []
        for _ in range(2000):
            out += super().drain(session, most - len(out))
            before = self.archive.jobs
            self.archive.serve(self.ns)
            if self.archive.jobs == before or len(out) >= most:
                return out
        raise AssertionError("reading never ends")


@pytest.fixture(params=[False, True], ids=["alone", "together"])
def past(request):
    return Past(cohorts=request.param)


def rows_of(messages, column="bin_seq"):
    """Values of a column over the whole Arrow stream of one subscription."""
    payloads = b"".join(m[1] for m in messages if isinstance(m, tuple) and m[0]["kind"] != Kind.DIGEST)
    return pa.ipc.open_stream(payloads).read_all()[column].to_pylist() if payloads else []


def told(messages, op):
    return [m for m in messages if isinstance(m, dict) and m["op"] == op]


def heads(messages, kind=Kind.BATCH):
    return [m[0] for m in messages if isinstance(m, tuple) and m[0]["kind"] == kind]


def cursor(seq, row=0, stream="grid"):
    return f"{TAPE}/main/{stream}/GLBX.MDP3%3AESH4/{seq}.0.{row}"


@pytest.mark.parametrize("policy", ["conflate", "lossless"])
@pytest.mark.parametrize(("start", "first"), [(cursor(7), 8), ("bin/5", 5), (f"@{5 * CELL_NS}", 5), (cursor(95), 96)])
def test_from_far_back_every_row_comes_once_and_then_what_is_live(past, policy, start, first):
    past.publish(100)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, policy=policy, **{"from": start})
    past.publish(4)
    seen += past.drain(session)
    assert rows_of(seen) == list(range(first, 104))
    assert [h["number"] for h in heads(seen)] == list(range(1, len(heads(seen)) + 1))
    assert told(seen, "gap") == []
    assert heads(seen)[0]["flags"] == Flag.REPLAYED
    assert [h["flags"] for h in heads(seen)[-4:]] == [0] * 4


def test_a_replay_at_full_speed_sends_up_to_64_rows_a_batch(past):
    past.archive.size = 200
    past.publish(300)
    seen = past.subscribe(past.session(), fields=FIELDS, **{"from": "bin/0"})
    assert rows_of(seen) == list(range(300))
    assert len(heads(seen)) <= 8


def test_a_place_that_is_still_to_come_is_waited_for(past):
    past.publish(3)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, **{"from": "bin/5"})
    past.publish(4)
    assert rows_of(seen + past.drain(session)) == [5, 6]


def test_rows_that_are_no_longer_kept_are_a_gap_and_then_the_rest(past):
    past.publish(100)
    past.archive.kept_from = 40
    seen = past.subscribe(past.session(), fields=FIELDS, **{"from": cursor(10)})
    (gap,) = told(seen, "gap")
    assert (gap["from"], gap["to"], gap["cause"]) == (cursor(10), cursor(40), "no longer kept")
    assert heads(seen)[0]["flags"] == Flag.REPLAYED | Flag.GAP_BEFORE
    assert rows_of(seen) == list(range(40, 100))


def test_a_lossless_reader_that_falls_behind_everything_kept_is_sent_away_with_4001(past):
    past.publish(5)
    session = past.session()
    past.subscribe(session, fields=FIELDS, policy="lossless")
    past.publish(100)
    past.archive.kept_from = 50
    seen = past.drain(session)
    assert seen[-1]["code"] == 4001
    assert session.closing.code == 4001


def test_a_lossless_reader_may_fall_behind_the_ring(past):
    past.publish(5)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, policy="lossless")
    past.publish(3000)
    seen += past.drain(session)
    assert rows_of(seen) == list(range(4, 3005))
    assert all(h["left_out"] == 0 for h in heads(seen))


def test_without_an_archive_a_lossless_reader_has_the_ring_and_then_4001(make_world):
    world = make_world(ring_bytes_max=10_000)
    world.publish(5)
    session = world.session()
    world.subscribe(session, fields=FIELDS, policy="lossless")
    world.publish(8)
    assert len(heads(world.drain(session))) == 8
    world.publish(100)
    assert world.drain(session)[-1]["code"] == 4001


def test_seek_back_and_to_live_on_one_socket(past):
    past.publish(50)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS)
    seen += past.say(session, op="seek", id=1, to="bin/20")
    assert told(seen, "subscribed")[1]["cursor"] == ""
    assert rows_of(seen) == [49, *range(20, 50)]
    past.publish(60)
    seen += past.say(session, op="seek", id=1, to="live")
    assert rows_of(seen)[-1] == 109
    assert rows_of(seen).count(109) == 1
    assert len(told(seen, "subscribed")) == 3


def test_pause_step_resume(past):
    past.publish(50)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS)
    past.say(session, op="pause", id=1)
    seen += past.say(session, op="seek", id=1, to="bin/20")
    assert rows_of(seen) == [49, 20], "the row there is shown"
    seen += past.say(session, op="step", id=1, bins=3)
    assert rows_of(seen)[2:] == [21, 22, 23]
    past.wait(5)
    assert past.drain(session) == []
    seen += past.say(session, op="resume", id=1)
    assert rows_of(seen)[5:] == list(range(24, 50))


def test_a_subscription_that_begins_paused_shows_nothing_before_somebody_goes_on(past):
    past.publish(50)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, paused=True, **{"from": "bin/20"})
    assert told(seen, "subscribed")[0]["paused"] is True
    past.wait(5)
    seen += past.drain(session)
    assert rows_of(seen) == []
    seen += past.say(session, op="step", id=1, bins=2)
    assert rows_of(seen) == [20, 21]
    seen += past.say(session, op="speed", id=1, factor="max")
    seen += past.say(session, op="resume", id=1)
    assert rows_of(seen) == list(range(20, 50))


def test_a_subscription_that_would_begin_paused_leaves_a_clock_that_goes_alone(past):
    past.publish(50)
    session = past.session(peer="me")
    past.subscribe(session, 1, fields=FIELDS, clock="c", **{"from": "bin/20"})
    seen = past.subscribe(session, 2, fields=FIELDS, clock="c", paused=True, **{"from": "bin/40"})
    assert told(seen, "subscribed")[0]["paused"] is False
    assert rows_of(seen) == list(range(40, 50))


def test_step_counts_bins_and_a_stream_without_bins_refuses(past):
    past.publish_trades(1)
    session = past.session()
    past.subscribe(session, stream="trades", fields=["sz"])
    assert past.say(session, op="step", id=1)[-1]["code"] == "bad_field"
    assert past.say(session, op="step", id=1, bins=0)[-1]["code"] == "bad_field"


def test_speed_follows_event_time(past):
    past.publish(100)
    session = past.session()
    past.subscribe(session, fields=FIELDS)
    past.say(session, op="pause", id=1)
    seen = past.say(session, op="speed", id=1, factor=2)
    seen += past.say(session, op="seek", id=1, to="bin/10")
    past.say(session, op="resume", id=1)
    at = [len(heads(past.drain(session)))]
    for _ in range(10):
        past.wait(0.25)  # five bins of 0.1 s at twice the speed
        at.append(len(heads(past.drain(session))))
    due = session.next_due_ns()
    assert 0 < due - past.ns <= 50_000_001
    assert sum(at) > 0
    position = position_of(past, session)
    assert position["live"] is False
    assert int(position["cursor"].split("/")[-1].split(".")[0]) in (59, 60)


def position_of(world, session):
    session._told_ns = 0
    session.tick(world.now)
    return told(world.drain(session), "position")[-1]


def test_a_paced_replay_that_gets_to_the_end_is_live(past):
    past.publish(30)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, **{"from": "bin/5"})
    past.say(session, op="pause", id=1)
    past.say(session, op="seek", id=1, to="bin/20")
    past.say(session, op="speed", id=1, factor=100)
    past.say(session, op="resume", id=1)
    for _ in range(5):
        seen += past.drain(session)
        past.wait(0.1)
    assert past.say(session, op="speed", id=1, factor=3)[-1]["code"] == "live"
    past.publish(2)
    assert [h["flags"] for h in heads(past.drain(session))] == [0, 0]


@pytest.mark.parametrize("factor", [0, -1, "fast", None, True, 1e9])
def test_a_pace_that_is_none_is_refused(past, factor):
    past.publish(3)
    session = past.session()
    past.subscribe(session)
    past.say(session, op="pause", id=1)
    assert past.say(session, op="speed", id=1, factor=factor)[-1]["code"] == "bad_field"


def test_what_is_live_has_no_speed(past):
    past.publish(3)
    session = past.session()
    past.subscribe(session)
    assert past.say(session, op="speed", id=1, factor=2)[-1]["code"] == "live"


def test_subscriptions_on_one_clock_show_the_same_event_time(past):
    for seq in range(100):
        past.publish()
        past.publish_trades(seq)
    a, b = past.session(peer="me"), past.session(peer="me")
    past.drain(a), past.drain(b)
    seen_a = past.subscribe(a, 1, fields=FIELDS, clock="c")
    seen_b = past.subscribe(b, 2, stream="trades", fields=["ts_ns", "sz"], clock="c")
    past.say(a, op="pause", id=1)
    seen_a = past.say(a, op="seek", id=1, to=cursor(20))
    past.say(a, op="speed", id=1, factor=1)
    past.say(a, op="resume", id=1)
    seen_b = []
    for _ in range(10):
        past.wait(0.1)
        seen_a += past.drain(a)
        seen_b += past.drain(b)
    schema_a, schema_b = _schema(past, BINS), _schema(past, TRADES)
    bins = rows_of([schema_a, *seen_a])
    times = rows_of([schema_b, *seen_b], "ts_ns")
    assert bins[0] == 21
    assert bins == list(range(21, 21 + len(bins)))
    assert 9 <= len(bins) <= 12
    assert times
    assert times[-1] <= (bins[-1] + 1) * CELL_NS
    assert (bins[-1] + 1) * CELL_NS - times[-1] <= 2 * CELL_NS
    assert [m["from"] for m in told(seen_b, "subscribed")] == [f"@{21 * CELL_NS}"], "who was moved is told"


@pytest.mark.parametrize("first", ["trades", "grid"])
def test_who_is_moved_by_a_seek_to_a_cursor_begins_where_the_first_row_does(past, first):
    """However many rows the one that sought has sent meanwhile, and whoever is asked first."""
    for seq in range(200):
        past.publish()
        past.publish_trades(seq)
    session = past.session(peer="me")
    past.drain(session)
    for number in (1, 2) if first == "grid" else (2, 1):
        known = {"fields": FIELDS} if number == 1 else {"stream": "trades", "fields": ["ts_ns"]}
        past.subscribe(session, number, clock="c", **known)
    seen = past.say(session, op="seek", id=1, to=cursor(20))
    assert rows_of([_schema(past, BINS), *[m for m in seen if isinstance(m, tuple) and m[0]["id"] == 1]])[0] == 21
    times = rows_of([_schema(past, TRADES), *[m for m in seen if isinstance(m, tuple) and m[0]["id"] == 2]], "ts_ns")
    known = [int(t) for block in past.archive.blocks[TRADES] for t in block.times]
    assert times == [t for t in known if t >= 21 * CELL_NS]


def two_on_a_clock(past):
    """A session with the grid under 1 and trades under 2, on one clock, and a live bin and trade of each second."""
    for seq in range(200):
        past.publish()
        past.publish_trades(seq)
    session = past.session(peer="me")
    past.drain(session)
    past.subscribe(session, 1, clock="c", fields=FIELDS)
    past.subscribe(session, 2, clock="c", stream="trades", fields=["ts_ns"])
    return session


def of(number, seen):
    return [m for m in seen if isinstance(m, tuple) and m[0]["id"] == number]


def test_who_waits_for_a_seek_stays_when_whoever_sought_leaves(past):
    session = two_on_a_clock(past)
    session.receive(json.dumps({"op": "seek", "id": 1, "to": cursor(20)}), past.now)
    session.receive(json.dumps({"op": "unsubscribe", "id": 1}), past.now)
    past.drain(session)
    past.publish()
    past.publish_trades(200)
    times = rows_of([_schema(past, TRADES), *of(2, past.drain(session))], "ts_ns")
    assert times == past.archive.blocks[TRADES][-1].times.tolist(), "what is live comes again, and nothing else"


def test_only_whoever_sought_says_where_it_leads(past):
    """Somebody who comes on the clock meanwhile, and shows rows at once, leads nobody."""
    session = two_on_a_clock(past)
    session.receive(json.dumps({"op": "seek", "id": 1, "to": cursor(20)}), past.now)
    other = past.session(peer="me")
    past.drain(other)
    past.subscribe(other, 3, clock="c", fields=FIELDS)
    times = rows_of([_schema(past, TRADES), *of(2, past.drain(session))], "ts_ns")
    assert times[0] == next(t for b in past.archive.blocks[TRADES] for t in b.times.tolist() if t >= 21 * CELL_NS)


def test_a_seek_by_a_stream_without_bins_moves_others_while_all_stand_still(past):
    session = two_on_a_clock(past)
    past.say(session, op="pause", id=1)
    past.say(session, op="seek", id=2, to=cursor(20).replace("/grid/", "/trades/"))
    seen = past.say(session, op="step", id=1, bins=2)
    at = int(past.archive.blocks[TRADES][21].times[0])
    first = at // CELL_NS  # the bin that has it
    assert rows_of([_schema(past, BINS), *of(1, seen)]) == [first, first + 1]


def test_a_seek_behind_the_end_of_a_tape_ends_all_on_the_clock(past):
    session = two_on_a_clock(past)
    for name in (BINS, TRADES):
        past.hub.hear(name, past.ns, end=True)
    past.drain(session)
    seen = past.say(session, op="seek", id=1, to=cursor(199))
    assert [m[0]["kind"] for m in of(2, seen)][-1] == Kind.END


def test_clocks_of_different_users_have_nothing_to_do_with_each_other(past):
    past.publish(30)
    a, b = past.session(peer="me"), past.session(peer="you")
    past.drain(a), past.drain(b)
    past.subscribe(a, 1, fields=FIELDS, clock="c")
    past.subscribe(b, 1, fields=FIELDS, clock="c")
    past.say(a, op="pause", id=1)
    past.publish()
    assert heads(past.drain(a)) == []
    assert len(heads(past.drain(b))) == 1


def test_a_step_on_a_shared_clock_moves_everyone(past):
    for seq in range(50):
        past.publish()
        past.publish_trades(seq)
    session = past.session(peer="me")
    past.drain(session)
    past.subscribe(session, 1, fields=FIELDS, clock="c")
    past.subscribe(session, 2, stream="trades", fields=["ts_ns"], clock="c")
    past.say(session, op="pause", id=1)
    past.say(session, op="seek", id=1, to="bin/10")
    past.drain(session)
    seen = past.say(session, op="step", id=1, bins=2)
    assert [h["id"] for h in heads(seen)].count(2) >= 1
    assert rows_of([_schema(past, BINS), *[m for m in seen if isinstance(m, tuple) and m[0]["id"] == 1]]) == [11, 12]
    times = rows_of([_schema(past, TRADES), *[m for m in seen if isinstance(m, tuple) and m[0]["id"] == 2]], "ts_ns")
    assert times[-1] <= 13 * CELL_NS


def test_who_waits_holds_no_segment_and_gets_every_row_all_the_same(past):
    """A message may be 8 MiB; clients that take nothing must not keep one each."""
    past.archive.size = 100
    past.publish(200)
    session = past.session()
    asked = {"stream": "grid", "tape": TAPE, "instrument": INSTRUMENT, "from": "bin/0", "fields": FIELDS}
    session.receive(json.dumps({"op": "subscribe", "id": 1, "policy": "lossless", **asked}), past.now)
    seen, held = [], []
    for _ in range(20):
        seen += past.drain(session, 1)
        reading = session._entries[1].subscription.reading
        held.append(reading._segment is not None)
        session.rest()
        assert reading._segment is None
    assert any(held)
    assert rows_of(seen) == list(range(200))
    assert told(seen, "gap") == []


def test_a_gap_before_a_segment_is_told_once_though_its_reader_rested(past):
    past.publish(60)
    past.archive.kept_from = 20
    session = past.session()
    seen = past.subscribe(session, **{"from": cursor(3), "fields": FIELDS})
    for _ in range(50):
        session.rest()
        seen += past.drain(session, 1)
    assert len(told(seen, "gap")) == 1
    assert rows_of(seen) == list(range(20, 60))


def test_a_paused_replay_holds_no_segment(past):
    past.publish(60)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS)
    past.say(session, op="pause", id=1)
    seen += past.say(session, op="seek", id=1, to="bin/2")
    assert session._entries[1].subscription.reading.number is None
    assert session._entries[1].subscription.reading._segment is None
    seen += past.say(session, op="step", id=1, bins=3)
    assert rows_of(seen) == [59, 2, 3, 4, 5]


def test_digests_are_those_of_the_frames_since_the_last_one(past):
    past.publish(5)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, digest=True)
    for _ in range(30):
        past.publish()
        past.wait(1)
        seen += past.drain(session)
    parts, digests = [], []
    for head, payload in (m for m in seen if isinstance(m, tuple)):
        if head["kind"] == Kind.DIGEST:
            digests.append(payload == sha256(b"".join(parts)).digest())
            parts = []
        else:
            parts.append(sha256(payload).digest()[:16])
    assert len(digests) >= 2
    assert all(digests)


def test_nobody_hashes_unless_asked(past):
    past.publish(5)
    session = past.session()
    past.subscribe(session, fields=FIELDS)
    (encoder,) = past.hub.channels[BINS].encoders.values()
    assert all(not frame._hash for frame in encoder._cache.values())


def test_an_end_is_told_in_the_past_too_and_one_may_go_back_before_it(past):
    past.publish(20)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, digest=True, **{"from": "bin/3"})
    past.hub.hear(BINS, past.ns, end=True)
    seen += past.drain(session)
    assert [h["kind"] for h in (m[0] for m in seen if isinstance(m, tuple))][-2:] == [Kind.DIGEST, Kind.END]
    assert rows_of(seen) == list(range(3, 20))
    again = past.say(session, op="seek", id=1, to="bin/18")
    assert next(m[0]["kind"] for m in again if isinstance(m, tuple)) == Kind.SCHEMA
    assert rows_of(again) == [18, 19]


@pytest.mark.parametrize(("refusal", "code"), [(Refusal("unreadable", "damaged"), "unreadable"), (None, None)])
def test_a_past_that_cannot_be_read_is_told_or_tried_again(past, refusal, code):
    past.publish(50)
    past.archive.broken = Failure(refusal, past.ns)
    session = past.session()
    seen = past.subscribe(session, fields=FIELDS, **{"from": "bin/5"})
    assert [m["code"] for m in told(seen, "error")] == ([code] if code else [])
    past.archive.broken = None
    past.wait(2)
    if code is None:
        assert rows_of(seen + past.drain(session)) == list(range(5, 50))


def test_a_thousand_that_come_back_cost_a_few_reads(past):
    past.archive.size = 30
    past.publish(100)
    sessions = [past.session() for _ in range(1000)]
    for number, session in enumerate(sessions):
        asked = {"stream": "grid", "tape": TAPE, "instrument": INSTRUMENT, "fields": FIELDS}
        asked["from"] = cursor(60 + number % 20)
        session.receive(json.dumps({"op": "subscribe", "id": 1, **asked}), past.now)
    for _ in range(3):
        for session in sessions:
            past.drain(session)
    assert past.archive.jobs <= 12
    assert [s._entries[1].subscription.sent for s in sessions] == [(99, 0, 0)] * 1000


def test_other_columns_end_the_connection_with_4004(past):
    past.publish(3)
    session = past.session()
    past.subscribe(session, fields=FIELDS)
    block = bins_block(past.seq)
    del block.table["add_mass"]
    past.hub.publish(BINS, block, past.ns)
    assert past.drain(session)[-1]["code"] == 4004
    assert session.closing.code == 4004


def test_drain_tells_each_client_when_to_come_back(past):
    session = past.session()
    past.drain(session)
    session.drain(past.now, 1234)
    assert past.drain(session)[0]["retry_after_ms"] == 1234


def _schema(world, name):
    encoder = next(iter(world.hub.channels[name].encoders.values()))
    return {"kind": Kind.SCHEMA, "id": 0}, encoder.schema_frame.payload


class Client(RuleBasedStateMachine):
    """Anything a client may do, while the market goes on: what it gets is always explained."""

    @initialize(
        policy=st.sampled_from(["conflate", "lossless"]), rate=st.sampled_from([None, 4]), cohorts=st.booleans()
    )
    def begin(self, policy, rate, cohorts):
        self.world = Past(ring_bytes_max=20_000, cohorts=cohorts)
        self.world.publish(60)
        self.policy = policy
        self.session = self.world.session()
        self.number = 0
        self.expected = None
        self.row_after_seek = None
        self.ended = False
        self.left_out = self.dropped = 0
        asked = {} if rate is None else {"max_rate_hz": rate}
        self.take(self.world.subscribe(self.session, fields=FIELDS, policy=policy, **asked))

    @rule(count=st.integers(1, 40))
    def market(self, count):
        self.world.publish(count)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.5]))
    def time(self, seconds):
        self.world.wait(seconds)
        self.session.tick(self.world.now)

    @rule(most=st.integers(1, 20))
    def read(self, most):
        self.take(World.drain(self.world, self.session, most))

    @rule(most=st.integers(0, 3))
    def workers(self, most):
        self.world.archive.serve(self.world.ns, most)

    @rule(op=st.sampled_from(["pause", "resume"]))
    def stand(self, op):
        self.send(op=op)

    @rule(bins=st.integers(1, 9))
    def step(self, bins):
        self.send(op="step", bins=bins)

    @rule(factor=st.sampled_from(["max", 0.5, 10, 300]))
    def speed(self, factor):
        self.send(op="speed", factor=factor)

    @rule(back=st.integers(0, 80), how=st.sampled_from(["cursor", "bin", "time"]))
    def seek(self, back, how):
        first = max(1, self.world.seq - back)
        to = {"cursor": cursor(first - 1), "bin": f"bin/{first}", "time": f"@{first * CELL_NS}"}[how]
        self.take(World.drain(self.world, self.session, 100))
        self.send(op="seek", to=to)
        self.expected = first

    @rule()
    def seek_live(self):
        self.take(World.drain(self.world, self.session, 100))
        self.send(op="seek", to="live")
        self.expected = None

    @precondition(lambda self: self.world.seq < 2000)
    @invariant()
    def nothing_waits_for_the_client(self):
        assert len(self.session._outbox) < 200
        assert self.session.closing is None

    def send(self, **message):
        self.session.receive(json.dumps({"id": 1, **message}), self.world.now)
        self.world.wait(0.05)

    def take(self, messages):
        for message in messages:
            if isinstance(message, dict):
                assert message["op"] != "gap"
                self.dropped += message.get("count", 0)
                continue
            head, payload = message
            assert head["number"] == self.number
            self.number += 1
            if head["kind"] == Kind.SCHEMA:
                self.schema = payload
                continue
            got = pa.ipc.open_stream(self.schema + payload).read_all()["bin_seq"].to_pylist()
            assert got == list(range(got[0], got[0] + len(got)))
            if self.policy == "lossless":
                assert head["left_out"] == 0
            self.left_out += head["left_out"]
            if self.expected is not None:
                assert got[0] == self.expected + head["left_out"]
            self.expected = got[-1] + 1

    def teardown(self):
        if not hasattr(self, "session"):
            return
        self.send(op="speed", factor="max")
        self.send(op="resume")
        for _ in range(800):
            self.world.wait(0.3)
            self.take(self.world.drain(self.session))
            if self.expected == self.world.seq:
                break
        assert self.expected == self.world.seq, "in the end it has everything up to the newest row"
        self.session._told_ns = 0
        self.session.tick(self.world.now)
        self.take(self.world.drain(self.session))
        assert self.dropped == self.left_out


TestClient = Client.TestCase
TestClient.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class SharedClock(RuleBasedStateMachine):
    """Grid and trades of two sockets on one clock: whoever does what, each gets every row behind where he was told."""

    @initialize(cohorts=st.booleans())
    def begin(self, cohorts):
        self.world = Past(ring_bytes_max=20_000, cohorts=cohorts)
        self.sessions = [self.world.session(peer="me") for _ in range(2)]
        self.readers = {}  # (session, id) → its stream, the row it must get next, and its Arrow schema
        self.ids = 0
        self.market(60)

    @rule(count=st.integers(1, 30))
    def market(self, count):
        for _ in range(count):
            seq = self.world.seq
            self.world.publish()
            self.world.publish_trades(seq)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.5]))
    def time(self, seconds):
        self.world.wait(seconds)

    @rule(who=st.integers(0, 1), most=st.integers(1, 20))
    def read(self, who, most):
        self.take(who, World.drain(self.world, self.sessions[who], most))

    @rule(most=st.integers(0, 3))
    def workers(self, most):
        self.world.archive.serve(self.world.ns, most)

    @precondition(lambda self: len(self.readers) < 4)
    @rule(
        who=st.integers(0, 1), stream=st.sampled_from(["grid", "trades"]), back=st.integers(0, 80),
        start=st.sampled_from(["live", "cursor", "time"]), paused=st.booleans(),
    )  # fmt: skip
    def come(self, who, stream, back, start, paused):
        self.ids += 1
        first = max(1, self.world.seq - back)
        place = {"live": "live", "cursor": cursor(first, stream=stream), "time": f"@{first * CELL_NS}"}[start]
        fields = FIELDS if stream == "grid" else ["ts_ns", "sz"]
        self.readers[who, self.ids] = [stream, None, b""]
        asked = {"stream": stream, "tape": TAPE, "instrument": INSTRUMENT, "fields": fields, "from": place}
        self.send(who, op="subscribe", id=self.ids, clock="c", policy="lossless", paused=paused, **asked)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def go(self, data):
        who, number = data.draw(st.sampled_from(sorted(self.readers)))
        self.take(who, World.drain(self.world, self.sessions[who], 1000))
        self.send(who, op="unsubscribe", id=number)
        del self.readers[who, number]

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), op=st.sampled_from(["pause", "resume", "step", "speed"]), factor=st.sampled_from(["max", 5]))
    def stand(self, data, op, factor):
        who, number = data.draw(st.sampled_from(sorted(self.readers)))
        self.send(who, op=op, id=number, **({"factor": factor} if op == "speed" else {}))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), back=st.integers(0, 80), how=st.sampled_from(["cursor", "bin", "time", "live"]))
    def seek(self, data, back, how):
        who, number = data.draw(st.sampled_from(sorted(self.readers)))
        first = max(1, self.world.seq - back)
        stream = self.readers[who, number][0]
        at = {
            "cursor": cursor(first, stream=stream),
            "bin": f"bin/{first}",
            "time": f"@{first * CELL_NS}",
            "live": "live",
        }
        self.send(who, op="seek", id=number, to=at[how])

    def send(self, who, **message):
        self.sessions[who].receive(json.dumps(message), self.world.now)
        self.world.wait(0.05)

    def take(self, who, messages):
        for message in messages:
            if isinstance(message, dict):
                assert message["op"] != "gap"
                reader = self.readers.get((who, message.get("id")))
                if message["op"] == "subscribed" and reader is not None:
                    reader[1] = self.due(reader[0], message["from"])
                continue
            head, payload = message
            reader = self.readers[who, head["id"]]
            if head["kind"] == Kind.SCHEMA:
                reader[2] = payload
                continue
            column = "bin_seq" if reader[0] == "grid" else "sz"
            got = pa.ipc.open_stream(reader[2] + payload).read_all()[column].to_pylist()
            assert got == list(range(got[0], got[0] + len(got)))
            assert reader[1] in (None, got[0])
            reader[1] = got[-1] + 1

    @staticmethod
    def due(stream, place):
        """The row that comes first from a place; None: the newest, whichever that is."""
        if place == "live":
            return None
        if place.startswith("@"):
            return -(-int(place[1:]) // CELL_NS) if stream == "trades" else int(place[1:]) // CELL_NS
        return int(place[4:]) if place.startswith("bin/") else int(place.split("/")[-1].split(".")[0]) + 1

    def teardown(self):
        if not getattr(self, "readers", None):
            return
        for _ in range(60):  # what was sought is found first: who leads may wait for the workers
            for who in (0, 1):
                self.take(who, self.world.drain(self.sessions[who]))
        who, number = next(iter(self.readers))
        self.send(who, op="resume", id=number)
        self.send(who, op="speed", id=number, factor="max")
        self.market(2)  # a seek may have led behind the row that came next
        for _ in range(200):
            self.world.wait(0.3)
            for each in (0, 1):
                self.take(each, self.world.drain(self.sessions[each]))
        assert all(session.closing is None for session in self.sessions)
        assert {key: due for key, (_, due, _) in self.readers.items()} == dict.fromkeys(self.readers, self.world.seq)


TestSharedClock = SharedClock.TestCase
TestSharedClock.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
