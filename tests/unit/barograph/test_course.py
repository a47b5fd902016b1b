"""The course of a subscription: what it says and what it makes of what comes, without a socket."""

from hashlib import sha256

import numpy as np
import pytest

from barograph.course import GAPS_KEPT, Course
from barograph.errors import GatewayError, WrongFramesError
from barograph.frame import BATCH, DIGEST, END, HEADER, SCHEMA, payload_hash
from barograph.renewal import EARLY_S, LATER_S, SOON_S, refresh_in_s
from schemas.columns import ArrowRows, Column

ROWS = ArrowRows([Column(name, dtype, "count", "") for name, dtype in (("seq", "i8"), ("part", "i4"), ("row", "i4"))])
REQUEST = {"stream": "bins", "tape": "live", "line": "main", "instrument": "SIM:ES", "from": "live"}
AGREED = {"op": "subscribed", "cursor": "demo/main/bins/SIM%3AES/7.0.0", "tape_id": "a"}


def message(kind, number, payload=b"", left_out=0):
    return HEADER.pack(1, kind, 0, 5, number, left_out, 0) + payload


def schema(number=0):
    return message(SCHEMA, number, ROWS.schema.serialize().to_pybytes())


def rows(number, *places, left_out=0):
    table = dict(zip(("seq", "part", "row"), np.array(places).T, strict=True))
    return message(BATCH, number, ROWS.message(table), left_out)


def begun(**more):
    course = Course(REQUEST | more)
    course.begin(5, anew=True)
    course.told(AGREED)
    return course


def test_the_first_connection_asks_what_the_program_asked():
    assert Course(REQUEST).begin(5) == [{"op": "subscribe", "id": 5, **REQUEST}]


def test_the_next_connection_goes_on_behind_the_last_row_on_the_tape_that_the_alias_meant():
    course = begun()
    course.take(schema())
    course.got(course.take(rows(1, (8, 0, 0), (8, 1, 3), left_out=4)))
    assert course.left_out == 4
    assert course.cursor == "demo/main/bins/SIM%3AES/8.1.3"
    (again,) = course.begin(6)
    assert again == {**REQUEST, "op": "subscribe", "id": 6, "tape": "demo", "from": "demo/main/bins/SIM%3AES/8.1.3"}
    course.told(AGREED)
    course.take(schema(0))  # numbers begin anew
    course.take(rows(1, (9, 0, 0)))
    assert course.begin(7)[0]["from"].endswith("/9.0.0")
    course.told(AGREED)
    assert course.resumed == 2


@pytest.mark.parametrize("number", [0, 2])
def test_a_number_that_jumps_is_no_frame(number):
    course = begun()
    course.take(schema())
    with pytest.raises(WrongFramesError, match=f"number {number} came where 1 was due"):
        course.take(rows(number, (8, 0, 0)))


def test_a_digest_is_compared_with_what_came():
    course, first, second = begun(digest=True), schema(), rows(1, (8, 0, 0))
    course.take(first)
    course.take(second)
    course.take(message(DIGEST, 2, sha256(payload_hash(first) + payload_hash(second)).digest()))
    course.take(rows(3, (9, 0, 0)))
    with pytest.raises(WrongFramesError, match="digest"):
        course.take(message(DIGEST, 4, sha256(payload_hash(second)).digest()))


def test_a_seek_counts_from_the_answer_on_and_survives_a_broken_connection():
    course = begun()
    course.take(schema())
    course.take(rows(1, (8, 0, 0)))
    assert course.seek("bin/3") == {"op": "seek", "id": 5, "to": "bin/3"}
    course.take(rows(2, (9, 0, 0)))  # still of the place before
    assert course.begin(6)[0]["from"] == "bin/3"
    course.told(AGREED)
    course.seek("@77")
    course.told(AGREED)
    assert course.begin(7)[0]["from"] == "@77"
    course.take(schema())
    course.take(rows(1, (2, 0, 0)))
    assert course.begin(8)[0]["from"].endswith("/2.0.0")


def test_begun_anew_it_goes_on_behind_what_the_program_got():
    course = begun()
    course.take(schema())
    first = course.take(rows(1, (8, 0, 0)))
    course.take(rows(2, (9, 0, 0)))  # waits for the program
    course.got(first)
    assert course.cursor.endswith("/8.0.0")
    assert course.begin(6)[0]["from"].endswith("/9.0.0")  # a new connection: what waits is kept
    assert course.begin(7, anew=True)[0]["from"].endswith("/8.0.0")


def test_what_waited_since_before_a_seek_places_nothing():
    course = begun()
    course.take(schema())
    before = course.take(rows(1, (8, 0, 0)))
    course.seek("bin/3")
    course.told(AGREED)
    course.got(before)
    assert course.begin(6, anew=True)[0]["from"] == "bin/3"


def test_a_refused_seek_leads_nowhere():
    course = begun()
    course.take(schema())
    course.take(rows(1, (8, 0, 0)))
    course.seek("bin/3")
    with pytest.raises(GatewayError):
        course.told({"op": "error", "code": "bad_field", "message": "no bins"})
    assert course.begin(6)[0]["from"].endswith("/8.0.0")


def test_pace_is_said_again_and_ends_with_live():
    course = begun()
    course.pace("speed", factor=10)
    course.pace("pause")
    paused = course.begin(6)
    assert [m["op"] for m in paused] == ["subscribe", "speed"]
    assert paused[0]["paused"]
    course.pace("resume")
    again = course.begin(7)  # said while it stands still: what is live already would refuse a speed
    assert [m["op"] for m in again] == ["subscribe", "speed", "resume"]
    assert {m["id"] for m in again} == {7}
    assert again[0]["paused"]
    assert again[1]["factor"] == 10
    course.seek("live")
    [plain] = course.begin(8)
    assert "paused" not in plain


def test_what_paces_one_on_a_clock_paces_the_others():
    one, other = begun(clock="c"), begun(clock="c")
    other.share(one)
    other.pace("pause")
    one.pace("speed", factor=2)
    for course in (one, other):
        assert [m["op"] for m in course.begin(6)] == ["subscribe", "pause", "speed"]
    one.pace("resume")
    assert [m["op"] for m in other.begin(7)] == ["subscribe", "pause", "speed", "resume"]
    other.part()
    other.seek("live")
    assert [m["op"] for m in other.begin(8)] == ["subscribe"]
    assert [m["op"] for m in one.begin(8)] == ["subscribe", "pause", "speed", "resume"]


def test_who_is_moved_by_another_one_on_the_clock_begins_again_there():
    course = begun()
    course.take(schema())
    course.take(rows(1, (8, 0, 0)))
    course.told({**AGREED, "cursor": "", "from": "@77"})
    assert course.begin(6)[0]["from"] == "@77"


def test_other_columns_or_another_tape_are_an_error():
    course = begun()
    course.take(schema())
    with pytest.raises(GatewayError, match="columns"):
        course.take(message(SCHEMA, 1, b"other"))
    with pytest.raises(GatewayError, match="made again"):
        course.told({**AGREED, "tape_id": "b"})


def test_the_end_is_no_frame():
    course = begun()
    assert course.take(message(END, 0)) is None
    assert Course.ended(message(END, 0))


def test_a_paced_replay_that_arrived_at_live_has_no_pace_any_more():
    course = begun()
    course.pace("speed", factor=10)
    course.told({"op": "position", "cursor": "", "lag_ms": 0, "live": False})
    assert "speed" in [m["op"] for m in course.begin(6)]
    course.told({"op": "position", "cursor": "", "lag_ms": 0, "live": True})
    assert [m["op"] for m in course.begin(7)] == ["subscribe"]


def test_steps_that_had_not_come_are_asked_for_again():
    course = begun()
    course.take(schema())
    course.pace("step", bins=3)
    course.take(rows(1, (8, 0, 0)))
    begun_again, stepped = course.begin(6)
    assert begun_again["paused"]
    assert stepped == {"op": "step", "id": 6, "bins": 2}
    course.take(schema())
    course.take(rows(1, (9, 0, 0), (10, 0, 0)))
    assert [(m["op"], m["paused"]) for m in course.begin(7)] == [("subscribe", True)]
    course.seek("bin/3")
    assert course.begin(8)[-1] == {"op": "step", "id": 8, "bins": 1}  # the row that a seek shows


def test_what_was_live_and_had_no_row_yet_goes_on_behind_where_it_began():
    course = begun()
    assert course.begin(6)[0]["from"] == "demo/main/bins/SIM%3AES/7.0.0"
    assert course.begin(7, anew=True)[0]["from"] == "live"


def test_before_the_gateway_named_a_row_the_hello_says_what_an_alias_means():
    course = Course(REQUEST | {"from": "bin/3"})
    course.begin(5, anew=True, aliases={"live": "demo/alt"})
    course.told({**AGREED, "cursor": ""})
    course.take(schema())
    course.got(course.take(rows(1, (8, 0, 0))))
    assert course.cursor == "demo/alt/bins/SIM%3AES/8.0.0"
    again = course.begin(6)[0]
    assert (again["tape"], again["line"]) == ("demo", "alt")
    course.told({"op": "position", "cursor": "other/main/bins/SIM%3AES/8.0.0", "lag_ms": 0, "live": True})
    assert course.cursor == "other/main/bins/SIM%3AES/8.0.0"  # the alias had moved since


@pytest.mark.parametrize("stream", ["gaps", "events"])
def test_streams_that_a_tape_has_once_go_on_on_their_own_line(stream):
    course = Course(REQUEST | {"stream": stream, "tape": "demo", "from": "@0"})
    course.begin(5, anew=True)
    course.told({**AGREED, "cursor": ""})
    course.take(schema())
    course.take(rows(1, (8, 0, 0)))
    again = course.begin(6)[0]
    assert (again["line"], again["from"]) == ("main", f"demo/-/{stream}/SIM%3AES/8.0.0")


def test_a_frame_that_waited_since_before_a_seek_does_not_lead_back():
    course = begun()
    course.take(schema())
    before = course.take(rows(1, (8, 0, 0)))
    course.seek("bin/3")
    course.told(AGREED)
    after = course.take(rows(2, (3, 0, 0)))
    course.got(before)  # the program is slow: rows of the new place are there already
    assert (before.turn, after.turn) == (0, 1)
    assert course.begin(6, anew=True)[0]["from"] == "bin/3"


def test_silence_is_over_when_a_second_passes_without_a_word_of_it():
    course = begun()
    position = {"op": "position", "cursor": "", "lag_ms": 0, "live": True}
    for message in (position, {"op": "stale", "age_ms": 2100}, position):
        course.told(message)
    assert course.stale_ms == 2100
    course.told({"op": "stale", "age_ms": 3100})
    assert course.stale_ms == 3100
    course.told(position)
    course.told(position)
    assert course.stale_ms == 0


def test_a_gateway_that_just_came_up_is_asked_again():
    unknown = {"op": "error", "code": "unknown_tape", "message": "there is no tape 'live'; known: none yet"}
    course = Course(REQUEST)
    course.begin(5, anew=True)
    with pytest.raises(GatewayError):
        course.told(unknown)
    course.begin(6, anew=True)
    course.told(AGREED)
    course.begin(7)
    assert course.told(unknown)
    course.begin(8)
    course.told(AGREED)
    assert course.resumed == 1


def test_rows_without_a_schema_of_this_connection_are_no_frame():
    course = begun()
    course.take(schema())
    course.begin(6)
    with pytest.raises(WrongFramesError, match="schema"):
        course.take(rows(0, (8, 0, 0)))


def test_the_same_schema_in_other_bytes_is_the_same():
    course = begun()
    course.take(schema())
    course.begin(6)
    padded = ROWS.schema.serialize().to_pybytes() + bytes(8)
    course.take(message(SCHEMA, 0, padded))
    course.take(rows(1, (8, 0, 0)))
    course.begin(7)
    other = ROWS.schema.with_metadata({"radius": "7"}).serialize().to_pybytes()
    with pytest.raises(GatewayError, match="columns"):
        course.take(message(SCHEMA, 0, other))


def test_the_end_is_in_no_digest_and_what_is_left_out_before_any_message_counts():
    course, first = begun(digest=True), schema(1)
    course.take(message(END, 0, left_out=2))
    course.take(first)
    course.take(message(DIGEST, 2, sha256(payload_hash(first)).digest(), left_out=3))
    assert course.left_out == 5


def test_gaps_are_remembered_within_bounds():
    course = begun()
    for number in range(3 * GAPS_KEPT):
        course.told({"op": "gap", "from": str(number), "to": "", "cause": "", "epoch": 0})
    assert len(course.gaps) == GAPS_KEPT
    assert course.gaps[-1]["from"] == str(3 * GAPS_KEPT - 1)


@pytest.mark.parametrize(
    ("token", "seconds"),
    [
        ("x.eyJleHAiOjEwMDB9.y", 1000 - 900 - EARLY_S),  # {"exp":1000}
        ("x.eyJleHAiOjkxMH0.y", SOON_S),  # {"exp":910}
        ("x.eyJzdWIiOiJhIn0.y", LATER_S),  # {"sub":"a"}
        ("a static key", LATER_S),
        ("x.%%%.y", LATER_S),
    ],
)
def test_when_a_token_is_renewed(token, seconds):
    assert refresh_in_s(token, 900.0) == seconds
