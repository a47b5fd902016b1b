"""The course of a subscription: what it says and what it makes of what comes, without a socket."""

from hashlib import sha256

import numpy as np
import pytest

from barograph.course import Course
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
    course.take(schema(0))  # numbers begin anew
    course.take(rows(1, (9, 0, 0)))
    assert course.begin(7)[0]["from"].endswith("/9.0.0")
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
    assert [m["op"] for m in course.begin(6)] == ["subscribe", "speed", "pause"]
    course.pace("resume")
    assert [m["op"] for m in course.begin(7)] == ["subscribe", "speed"]
    course.seek("live")
    assert [m["op"] for m in course.begin(8)] == ["subscribe"]


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
