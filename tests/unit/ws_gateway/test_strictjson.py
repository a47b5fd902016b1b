import pytest

from ws_gateway.strictjson import DEPTH_MAX, TEXT_BYTES_MAX, BadJsonError, depth, parse


def test_an_object_passes():
    assert parse('{"op":"auth","token":"a[[[{"}') == {"op": "auth", "token": "a[[[{"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1]", "object"),
        ("3", "object"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":1e999}', "range"),
        ('{"a":' + "9" * 25 + "}", "range"),
        ('{"a":1,"a":2}', "twice"),
        ('{"a":{"b":1,"b":2}}', "twice"),
        ("[" * 3000 + "]" * 3000, "deep"),
        ('{"a":' * 5 + "1" + "}" * 5, "deep"),
        ('{"a":"' + "x" * TEXT_BYTES_MAX + '"}', "at most"),
    ],
)
def test_what_is_refused_is_named(text, word):
    with pytest.raises(BadJsonError, match=word):
        parse(text)


def test_depth_ignores_brackets_in_strings_and_escapes():
    assert depth(r'{"a":"[[[\"[[[\\"}') == 1
    assert depth('{"a":[{"b":[]}]}') == 4
    assert depth("}}}{") == 0
    assert DEPTH_MAX == 4
