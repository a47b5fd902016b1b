"""Tokens and keys: which are accepted, which are not and why; rotation, revocation, age of what is known."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.auth import KNOWN_S_MAX, LOCAL, Principal, RefusedError, open_authority
from runtime.auth_keys import FILE, KeyStore, Ring, ring_from_json
from runtime.auth_limits import LIMITS, Limiter, note_refusal
from runtime.auth_rules import RULES, Role, may
from runtime.auth_tokens import keys_from_json
from runtime.errors import InputError, UsageError
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from tests.unit.runtime.auth_world import (
    NOW_NS,
    NOW_S,
    SIGNERS,
    STRANGER,
    AuthWorld,
    confused,
    jwks,
    token,
    unsigned,
)


@pytest.fixture
def world(tmp_path):
    return AuthWorld(tmp_path)


def reason(world, text, now_ns=NOW_NS):
    with pytest.raises(RefusedError) as caught:
        world.authority.admit(text, now_ns)
    assert text == "" or text not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kid", SIGNERS)
def test_good_tokens_of_every_kind_are_accepted(world, kid):
    who = world.authority.admit(token(kid, role=["x", "trader", "viewer"]), NOW_NS)
    assert who == Principal("ann", Role.TRADER, "token", kid, "t1", (NOW_S + 600) * 10**9)
    assert world.authority.ended(who, NOW_NS) == ""


BAD = {
    "expired": lambda: token(exp=NOW_S - 11),
    "early": lambda: token(nbf=NOW_S + 11),
    "early ": lambda: token(iat=NOW_S + 11),
    "audience": lambda: token(aud="another"),
    "claims": lambda: token(aud=None),
    "claims ": lambda: token(exp=None),
    "claims  ": lambda: token(sub=None),
    "claims   ": lambda: token(exp=2**200),
    "claims    ": lambda: token(sub="x" * 201),
    "claims     ": lambda: token(sub=""),
    "role": lambda: token(role=None),
    "role ": lambda: token(role="king"),
    "role  ": lambda: token(role={"admin": True}),
    "forged": lambda: token(key=STRANGER),
    "forged ": lambda: token()[:-8] + "AAAAAAAA",
    "unknown_key": lambda: token("other"),
    "malformed     ": lambda: unsigned({"alg": "ES256", "kid": None}),
    "algorithm": unsigned,
    "algorithm ": lambda: unsigned({"alg": "None"}),
    "algorithm  ": lambda: unsigned({"alg": "nOnE"}),
    "algorithm   ": confused,
    "algorithm    ": lambda: token("es", head={"kid": "rs"}),
    "malformed": lambda: "a.b.c",
    "malformed ": lambda: "x" * 5000,
    "malformed  ": lambda: "é.é.é",
    "malformed   ": lambda: token(head={"crit": ["exp"]}),
    "malformed    ": lambda: "no token",
    "absent": lambda: "",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tokens_are_refused_by_name(world, name):
    assert reason(world, BAD[name]()) == name.strip()


def test_an_issuer_is_looked_at_where_one_is_given(tmp_path):
    world = AuthWorld(tmp_path, issuer="https://id.example")
    assert reason(world, token(iss="https://other.example")) == "issuer"
    assert reason(world, token()) in ("claims", "issuer")
    assert world.authority.admit(token(iss="https://id.example"), NOW_NS).subject == "ann"


def test_leeway_holds_for_requests_and_not_for_sessions(world):
    who = world.authority.admit(token(exp=NOW_S - 9), NOW_NS)
    assert world.authority.ended(who, NOW_NS) == "expired"


def test_keys_rotate_by_the_file(world):
    world.jwks = jwks("es")
    world.authority.refresh()
    assert reason(world, token("ed")) == "unknown_key"
    who = world.authority.admit(token("es"), NOW_NS)
    world.jwks = jwks("es", "ed")
    world.authority.refresh()
    assert world.authority.admit(token("ed"), NOW_NS)
    world.jwks = jwks("ed")
    world.authority.refresh()
    assert reason(world, token("es")) == "unknown_key"
    assert world.authority.ended(who, NOW_NS) == "revoked"


def test_a_static_key_is_good_until_it_is_revoked(world):
    key, text = world.key("bob", Role.TRADER)
    who = world.authority.admit(text, NOW_NS)
    assert who == Principal("bob", Role.TRADER, "key", key.id)
    assert world.authority.admit(text, NOW_NS) == who
    assert reason(world, text + "x") == "forged"
    assert reason(world, text.replace(key.id, "0" * 12)) == "unknown_key"
    world.keys.revoke(key.id, NOW_NS)
    world.authority.refresh()
    assert reason(world, text) == "revoked"
    assert world.authority.ended(who, NOW_NS) == "revoked"


def test_a_static_key_ends(world):
    _, text = world.key(expires_ns=NOW_NS + 5)
    who = world.authority.admit(text, NOW_NS)
    assert world.authority.ended(who, NOW_NS + 5) == "expired"
    assert reason(world, text, NOW_NS + 5) == "expired"


def test_a_token_is_revoked_by_its_id(world):
    who = world.authority.admit(token(), NOW_NS)
    world.keys.revoke_token("t1")
    world.keys.revoke_token("t1")
    assert world.keys.read().tokens == ("t1",)
    world.authority.refresh()
    assert reason(world, token()) == "revoked"
    assert world.authority.ended(who, NOW_NS) == "revoked"
    assert world.authority.admit(token(jti="t2"), NOW_NS)
    assert world.authority.admit(token(jti=None), NOW_NS)


def test_secrets_are_not_stored(world, tmp_path):
    key, text = world.key()
    stored = (tmp_path / FILE).read_text()
    secret = text.split("_", 2)[2]
    assert len(secret) >= 43
    assert secret not in stored
    assert key.hash in stored
    other, _ = world.key()
    assert other.salt != key.salt


def test_static_keys_can_be_off(tmp_path):
    world = AuthWorld(tmp_path, static=False)
    _, text = world.key()
    assert reason(world, text) == "unknown_key"


def test_what_is_known_counts_for_half_a_minute(world):
    who = world.authority.admit(token(), NOW_NS)
    world.fails = True
    world.mono_s += KNOWN_S_MAX
    world.authority.refresh()
    assert world.authority.admit(token(), NOW_NS) == who
    world.mono_s += 1
    world.authority.refresh()
    assert reason(world, token()) == "unknown"
    assert world.authority.ended(who, NOW_NS) == "unknown"
    assert world.authority.ended(LOCAL, NOW_NS) == ""
    world.fails = False
    world.authority.refresh()
    assert world.authority.admit(token(), NOW_NS) == who


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.text('abcXYZ019-_={}"', max_size=20), min_size=3, max_size=3).map(".".join))
def test_no_text_breaks_the_judgement(tmp_path_factory, text):
    world = _shared(tmp_path_factory)
    for shown in (text, "bgk_" + text):
        with pytest.raises(RefusedError):
            world.authority.admit(shown, NOW_NS)


_made = []


def _shared(factory):
    if not _made:
        _made.append(AuthWorld(factory.mktemp("auth")))
    return _made[0]


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{}", b"[]", b'{"keys":[{}]}', b'{"keys":["x"]}', b'{"keys":[{"kid":"a","kty":"oct","k":"AAAA"}]}',
        b'{"keys":[{"kid":"a","kty":"EC"}]}', b'{"keys":[{"kid":"a","kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}]}',
    ],
)  # fmt: skip
def test_bad_key_files_are_refused(document):
    with pytest.raises(InputError, match=r"keys\.json"):
        keys_from_json(document, "keys.json")


def test_keys_for_encryption_are_passed_over_and_ids_are_unique():
    document = json.loads(jwks("es"))
    assert set(keys_from_json(json.dumps(document).encode(), "k")) == {"es"}
    twice = {"keys": document["keys"] * 2}
    with pytest.raises(InputError, match="of its own"):
        keys_from_json(json.dumps(twice).encode(), "k")
    document["keys"][0]["use"] = "enc"
    assert keys_from_json(json.dumps(document).encode(), "k") == {}


def test_a_damaged_ring_is_refused_and_an_absent_one_is_empty(tmp_path):
    assert ring_from_json(None) == Ring()
    for text in (b"x", b"{}", b'{"keys":[{"id":1}],"revoked_tokens":[]}'):
        with pytest.raises(InputError, match="damaged"):
            ring_from_json(text)
    with pytest.raises(InputError, match="no key"):
        KeyStore(LocalObjectStore(tmp_path)).revoke("nope", 1)
    with pytest.raises(InputError, match="cannot name"):
        KeyStore(LocalObjectStore(tmp_path)).add("a\nb", Role.VIEWER, 1)


def test_settings_say_who_is_let_in(tmp_path):
    known = {"data_dir": tmp_path}
    assert open_authority(Settings(**known)) is None
    with pytest.raises(UsageError, match="by whose keys"):
        open_authority(Settings(auth="jwt", **known))
    with pytest.raises(InputError, match="cannot be read"):
        open_authority(Settings(auth="jwt", auth_jwks=str(tmp_path / "none.json"), **known))
    (tmp_path / "jwks.json").write_bytes(jwks())
    both = open_authority(Settings(auth="both", auth_jwks=str(tmp_path / "jwks.json"), **known))
    assert both.admit(token(), NOW_NS).role is Role.VIEWER
    _, text = KeyStore(LocalObjectStore(tmp_path / "state")).add("bob", Role.ADMIN, NOW_NS)
    both.refresh()
    assert both.admit(text, NOW_NS).role is Role.ADMIN


@pytest.mark.parametrize("text", ["none", "HS256", "RS256,none", "RS256,", ""])
def test_no_setting_allows_a_weak_algorithm(text):
    with pytest.raises(ValueError, match="auth_algorithms"):
        Settings(auth_algorithms=text)


def test_what_is_not_in_the_table_nobody_may():
    assert not may(Role.ADMIN, "root", "GET /v1/nothing")
    assert not may(None, "", "GET /v1/tapes")
    assert may(None, "", "GET /health")


def test_what_is_owned_belongs_to_its_owner_and_to_admins():
    owned = [what for what, rule in RULES.items() if rule.owned]
    assert "ws seek" in owned
    for what in owned:
        assert may(Role.TRADER, "ann", what, "ann")
        assert may(Role.TRADER, "ann", what, None)
        assert not may(Role.TRADER, "ann", what, "bob")
        assert may(Role.ADMIN, "root", what, "bob")
        assert not may(Role.VIEWER, "ann", what, "ann")


def test_limits_count_by_client_and_kind():
    limiter = Limiter()
    most = LIMITS["failures"].amount
    assert all(limiter.take("failures", "a") for _ in range(most))
    assert not limiter.take("failures", "a")
    assert not limiter.left("failures", "a")
    assert limiter.left("failures", "b")
    assert limiter.take("lines", "a")
    assert not limiter.take("bytes", "a", LIMITS["bytes"].amount + 1)


def test_a_refusal_is_one_line_and_a_flood_of_them_is_few(caplog):
    limiter = Limiter()
    for _ in range(500):
        note_refusal(limiter, "gateway", "forged", "10.0.0.1", user="a\nb")
    assert len(caplog.records) == LIMITS["lines"].amount
    line = json.loads(caplog.records[0].getMessage())
    assert line == {"event": "refused", "part": "gateway", "reason": "forged", "from": "10.0.0.1", "user": "a\nb"}
    assert "\n" not in caplog.records[0].getMessage()
