"""Key pairs, tokens and authorities for tests of authentication, with time that the test moves."""

import base64
import hmac
import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runtime.auth import Authority
from runtime.auth_keys import KeyStore
from runtime.auth_rules import Role
from runtime.auth_tokens import TokenRules, keys_from_json
from runtime.object_store import LocalObjectStore

NOW_S = 1_700_000_000
NOW_NS = NOW_S * 10**9

SIGNERS = {
    "es": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    "rs": ("RS256", rsa.generate_private_key(65537, 2048)),
}
STRANGER = ec.generate_private_key(ec.SECP256R1())
_MAKERS = {
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
    "RS256": jwt.algorithms.RSAAlgorithm,
}


def jwks(*kids):
    """A JWKS document with the public keys of these signers (all if none is named)."""
    found = []
    for kid in kids or SIGNERS:
        algorithm, private = SIGNERS[kid]
        entry = _MAKERS[algorithm].to_jwk(private.public_key(), as_dict=True)
        found.append({**entry, "kid": kid, "alg": algorithm, "use": "sig"})
    return json.dumps({"keys": found}).encode()


def token(kid="es", head=None, key=None, algorithm=None, now_s=NOW_S, **changes):
    """A token of a signer; a claim that is None is left out."""
    name, private = SIGNERS[kid] if kid in SIGNERS else SIGNERS["es"]
    claims = {
        "sub": "ann",
        "aud": "barograph",
        "exp": now_s + 600,
        "iat": now_s,
        "role": "viewer",
        "jti": "t1",
        **changes,
    }
    claims = {claim: value for claim, value in claims.items() if value is not None}
    return jwt.encode(claims, key or private, algorithm or name, headers={"kid": kid, **(head or {})})


def _parts(head, claims):
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in (head, claims))


def _claims(now_s, **changes):
    return {"sub": "eve", "aud": "barograph", "exp": now_s + 600, "role": "admin", **changes}


def unsigned(head=None, now_s=NOW_S, **changes):
    """A token with `alg` none, signed by nobody."""
    return _parts({"typ": "JWT", "alg": "none", "kid": "es", **(head or {})}, _claims(now_s, **changes)) + "."


def confused(now_s=NOW_S):
    """A token signed by HMAC with our public key as its secret: the classic confusion of algorithms."""
    public = SIGNERS["rs"][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = _parts({"typ": "JWT", "alg": "HS256", "kid": "rs"}, _claims(now_s))
    signature = base64.urlsafe_b64encode(hmac.digest(public, text.encode(), "sha256")).decode().rstrip("=")
    return f"{text}.{signature}"


class AuthWorld:
    """An authority over a folder, whose clock the test moves."""

    def __init__(self, folder, static=True, **rules):
        self.keys = KeyStore(LocalObjectStore(folder))
        self.jwks = jwks()
        self.mono_s = 100.0
        self.fails = False
        self.authority = Authority(
            self.keys.read,
            self._read_jwks,
            TokenRules("barograph", **rules),
            static=static,
            monotonic_s=lambda: self.mono_s,
        )

    def _read_jwks(self):
        if self.fails:
            raise OSError("the disk is gone")
        return keys_from_json(self.jwks, "keys.json")

    def key(self, name="bob", role=Role.TRADER, expires_ns=None):
        made = self.keys.add(name, role, NOW_NS, expires_ns)
        self.authority.refresh()
        return made
