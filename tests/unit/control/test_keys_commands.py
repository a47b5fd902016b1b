"""The verbs of keys, as scripts call them."""

import json

import pytest
from typer.testing import CliRunner

from control.app import app
from runtime.auth import Authority
from runtime.auth_keys import KeyStore
from runtime.errors import InputError, UsageError
from runtime.object_store import LocalObjectStore


@pytest.fixture
def call(tmp_path):
    def run(*words):
        done = CliRunner().invoke(app, ["keys", *words, "--data", str(tmp_path)], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    return run


def test_a_key_is_made_shown_once_listed_and_revoked(call, tmp_path):
    made = json.loads(call("add", "ann", "--role", "trader", "--days", "2", "--json"))
    authority = Authority(KeyStore(LocalObjectStore(tmp_path / "state")).read)
    assert authority.admit(made["key"], 0).subject == "ann"
    listed = call("list", "--json")
    (row,) = json.loads(listed)
    assert (row["id"], row["name"], row["role"], row["state"]) == (made["id"], "ann", "trader", "good")
    assert made["key"].split("_", 2)[2] not in listed + call("list")
    assert json.loads(call("revoke", made["id"], "--json"))["state"] == "revoked"
    assert "revoked" in call("list")
    assert json.loads(call("revoke", "some-jti", "--token", "--json")) == {"token": "some-jti", "state": "revoked"}


def test_bad_calls_are_refused(call):
    with pytest.raises(UsageError, match="no role"):
        call("add", "ann", "--role", "king")
    with pytest.raises(InputError, match="no key"):
        call("revoke", "nothing")
