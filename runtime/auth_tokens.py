"""JSON Web Tokens of an identity provider: which are good, and for whom.

The signature, the audience and the issuer are PyJWT's to judge, with three things fixed beforehand that attacks on such
tokens need open: the algorithm must be on our list *and* be that of the key, the key is found in our file alone (`jku`,
`x5u` and `jwk` of the token are not looked at), and time is a parameter. `none` is on no list.

Keys come from a JWKS file. Rotation is: add the new key to the file, sign with it, remove the old one; removing a key
ends what it signed.

References: RFC 7519 (JWT), RFC 7517 (JWK), RFC 8725 (best current practices).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from runtime.auth_rules import Role
from runtime.errors import InputError
from schemas.units import NS_PER_SECOND

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Algorithms that may be allowed: those with a public key. Where the key verifies and signs alike, whoever reads our
file could make tokens."""

TIME_S_MAX: Final = 1 << 40
"""Latest time a token may speak of, seconds: some thirty thousand years. Beyond it numbers are nonsense."""

SUBJECT_CHARS_MAX: Final = 200


class TokenError(Exception):
    """A token that is not good.

    Attributes:
        code: why, short and stable: `malformed`, `algorithm`, `unknown_key`, `forged`, `audience`, `issuer`, `claims`,
            `expired`, `early`, `role`.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says.

    Attributes:
        subject: the user.
        role: his role.
        expires_ns: when it ends, ns since the epoch.
        key: id of the key that signed it.
        token: its own id (`jti`), empty if it has none.
    """

    subject: str
    role: Role
    expires_ns: int
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What is asked of a token.

    Attributes:
        audience: `aud` must name it.
        issuer: `iss` must be it; empty: any.
        algorithms: allowed ones, of `ALGORITHMS`.
        leeway_s: by how much the issuer's clock may differ from ours.
        role_claim: the claim that holds the role, or a list of roles.
    """

    audience: str
    issuer: str = ""
    algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA")
    leeway_s: float = 10.0
    role_claim: str = "role"


Keys = Mapping[str, jwt.PyJWK]
"""Key id → public key."""


def keys_from_json(data: bytes, place: str) -> Keys:
    """The keys of a JWKS document by their ids.

    Args:
        data: the document.
        place: where it came from, for errors.

    Raises:
        InputError: it is none, a key has no id or one that another has, or is not public.
    """

    def bad(why: str) -> InputError:
        return InputError(f"{place} {why}", remedy="give a JWKS file with public keys, each with a `kid`")

    try:
        entries = json.loads(data)["keys"]
        signing = [entry for entry in entries if entry.get("use", "sig") == "sig"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise bad("is no JWKS document") from error
    found: dict[str, jwt.PyJWK] = {}
    for entry in signing:
        kid = entry.get("kid")
        if not isinstance(kid, str) or not kid or kid in found:
            raise bad("has a key without an id of its own")
        if entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:
            raise bad(f"has a key {kid[:40]!r} that is not a public one")
        try:
            found[kid] = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise bad(f"has a key {kid[:40]!r} that cannot be read") from error
    return found


def judge(token: str, keys: Keys, rules: TokenRules, now_ns: int) -> Claims:
    """What a token says, if it is good.

    Args:
        token: its text.
        keys: whose signatures count.
        rules: what is asked of it.
        now_ns: the time, ns since the epoch.

    Raises:
        TokenError: it is not good; the code says why.
    """
    kid, key = _key_of(token, keys, rules)
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=rules.audience,
            issuer=rules.issuer or None,
            options={
                "require": ["exp", "aud", "sub"],
                "verify_exp": False,  # judged below, by a time that is given
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.InvalidAudienceError as error:
        raise TokenError("audience") from error
    except jwt.InvalidIssuerError as error:
        raise TokenError("issuer") from error
    except jwt.InvalidSignatureError as error:
        raise TokenError("forged") from error
    except jwt.MissingRequiredClaimError as error:
        raise TokenError("claims") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise TokenError("malformed") from error
    return _claims(claims, kid, rules, now_ns)


def _key_of(token: str, keys: Keys, rules: TokenRules) -> tuple[str, jwt.PyJWK]:
    """The key that a token's head names; nothing but the head has been read then."""
    try:
        head = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise TokenError("malformed") from error
    if "crit" in head:
        raise TokenError("malformed")
    if head.get("alg") not in rules.algorithms:
        raise TokenError("algorithm")
    kid = head.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise TokenError("unknown_key")
    if head["alg"] != key.algorithm_name:
        raise TokenError("algorithm")
    return str(kid), key


def _claims(claims: Mapping[str, Any], kid: str, rules: TokenRules, now_ns: int) -> Claims:
    now_s = now_ns / NS_PER_SECOND
    expires_s = _time(claims["exp"])
    if now_s >= expires_s + rules.leeway_s:
        raise TokenError("expired")
    if any(_time(claims[name]) > now_s + rules.leeway_s for name in ("nbf", "iat") if name in claims):
        raise TokenError("early")
    subject, token = claims["sub"], claims.get("jti", "")
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS_MAX or not isinstance(token, str):
        raise TokenError("claims")
    return Claims(subject, _role(claims.get(rules.role_claim)), int(expires_s * NS_PER_SECOND), kid, token)


def _time(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value <= TIME_S_MAX:  # type: ignore[operator]
        raise TokenError("claims")
    return value  # type: ignore[return-value]


def _role(value: object) -> Role:
    """The highest role that a claim names; nobody has one by default."""
    named = value if isinstance(value, list) else [value]
    roles = [role for role in Role if role.value in named]
    if not roles:
        raise TokenError("role")
    return roles[-1]
