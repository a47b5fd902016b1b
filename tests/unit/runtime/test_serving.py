"""Serving versions: content names them, aliases move, nothing is changed under an id."""

import pytest

from runtime.errors import InputError
from runtime.object_store import LocalObjectStore
from runtime.serving import ServingStore, make_version, parse_version

GRID = {"stream": "grid", "tape": "t1", "instrument": "X:Y"}
TRADES = {"stream": "trades", "tape": "t1", "instrument": "X:Y"}


@pytest.fixture
def store(tmp_path):
    return ServingStore(LocalObjectStore(tmp_path))


def test_a_version_is_what_a_client_would_ask_for():
    version = make_version([GRID, TRADES], "two")
    assert version.messages() == [{"op": "subscribe", "id": 1, **GRID}, {"op": "subscribe", "id": 2, **TRADES}]


def test_the_same_content_has_one_id_and_another_content_another(store):
    assert store.publish(make_version([GRID])) == store.publish(make_version([dict(reversed(GRID.items()))]))
    assert store.publish(make_version([TRADES])) != store.publish(make_version([GRID]))
    assert len(store.versions()) == 2
    assert store.resolve(store.versions()[0]) == store.load(store.versions()[0])


def test_an_alias_moves_and_what_it_named_stays(store):
    first, second = (store.publish(make_version([asked])) for asked in (GRID, TRADES))
    store.point("screen", first)
    assert store.resolve("screen").id == first
    store.point("screen", second)
    assert store.resolve("screen").id == second
    assert store.aliases() == {"screen": second}
    assert store.load(first).subscriptions == (GRID,)


@pytest.mark.parametrize("name", ["none", "", "../../etc", "A B", "x" * 50])
def test_what_is_not_there_is_none(store, name):
    assert store.resolve(name) is None


@pytest.mark.parametrize("subscriptions", [[], [GRID] * 17, [{"op": "auth"}], [{"id": 3}], ["grid"]])
def test_what_is_no_version_is_refused(subscriptions):
    with pytest.raises(InputError, match="no serving version"):
        make_version(subscriptions)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"subscriptions": 3}', b"\xff", b'{"subscriptions": [3]}'])
def test_a_file_that_is_none_is_refused(data):
    with pytest.raises(InputError, match="no serving version"):
        parse_version(data)


def test_a_version_that_was_changed_is_refused(store, tmp_path):
    version = store.publish(make_version([GRID]))
    path = tmp_path / "serving" / "versions" / f"{version}.json"
    path.write_bytes(path.read_bytes().replace(b"t1", b"t2"))
    with pytest.raises(InputError, match="was changed"):
        store.resolve(version)


def test_aliases_are_checked(store):
    version = store.publish(make_version([GRID]))
    for name, target in (("A", version), ("a", "0" * 16), (version, version)):
        with pytest.raises(InputError):
            store.point(name, target)
