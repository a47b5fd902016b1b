import pytest

from ws_gateway.catalogue import stream
from ws_gateway.request import Refusal, parse_request

GOOD = {"op": "subscribe", "id": 7, "stream": "grid", "tape": "t1", "instrument": "X:Y"}


def test_defaults():
    request = parse_request(GOOD)
    assert (request.id, request.line, request.dtype, request.policy) == (7, "main", "f32", "conflate")
    assert request.fields == stream("grid").defaults
    assert request.start.kind == "live"
    assert request.radius is None
    assert request.max_rate_hz is None


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("bin/12", "bin", 12), ("@1703462435000000000", "time", 1703462435000000000)],
)
def test_places_to_start_from(text, kind, value):
    start = parse_request({**GOOD, "from": text}).start
    assert (start.kind, start.value) == (kind, value)


def test_a_cursor_is_a_place_to_start_from():
    start = parse_request({**GOOD, "from": "t1/main/grid/X%3AY/5.1.2"}).start
    assert (start.cursor.seq, start.cursor.part, start.cursor.row) == (5, 1, 2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": -1}, "bad_id"),
        ({"id": 2**32}, "bad_id"),
        ({"id": True}, "bad_id"),
        ({"id": "7"}, "bad_id"),
        ({"id": None}, "bad_id"),
        ({"stream": "nope"}, "bad_field"),
        ({"stream": []}, "bad_field"),
        ({"tape": "No"}, "bad_field"),
        ({"tape": 3}, "bad_field"),
        ({"line": "x" * 41}, "bad_field"),
        ({"instrument": ""}, "bad_field"),
        ({"instrument": "x" * 121}, "bad_field"),
        ({"instrument": None}, "bad_field"),
        ({"fields": []}, "bad_field"),
        ({"fields": "rest_depth"}, "bad_field"),
        ({"fields": ["rest_depth", "rest_depth"]}, "bad_field"),
        ({"fields": ["nope"]}, "unknown_field"),
        ({"fields": [3]}, "bad_field"),
        ({"fields": ["bid_px"]}, "unknown_field"),
        ({"radius": 0}, "bad_field"),
        ({"radius": 1.5}, "bad_field"),
        ({"radius": 5, "stream": "bins"}, "bad_field"),
        ({"dtype": "f16"}, "bad_field"),
        ({"max_rate_hz": 0}, "bad_field"),
        ({"max_rate_hz": "fast"}, "bad_field"),
        ({"max_rate_hz": 1e9}, "bad_field"),
        ({"policy": "best"}, "bad_field"),
        ({"from": "yesterday"}, "bad_field"),
        ({"from": 5}, "bad_field"),
        ({"from": "x" * 500}, "bad_field"),
        ({"clock": "C c"}, "bad_field"),
        ({"clock": ""}, "bad_field"),
        ({"digest": 1}, "bad_field"),
        ({"from": f"@{2**63}"}, "bad_field"),
        ({"from": f"t1/main/grid/X%3AY/{2**64}.0.0"}, "bad_field"),
        ({"surprise": 1}, "bad_field"),
    ],
)
def test_every_bad_field_has_its_code_and_a_sentence(change, code):
    with pytest.raises(Refusal) as caught:
        parse_request({**GOOD, **change})
    assert caught.value.code == code
    assert 10 < len(caught.value.message) < 160
