"""Who may do what: one table, roles by routes and operations; what is not in it nobody may.

    viewer    looks: live streams, lists, status
    trader    also replays: goes back in time, has clocks, asks SQL
    admin     everything, also what belongs to others

Names of the table are `METHOD TEMPLATE` for the api and the gateway's plain HTTP, `ws OPERATION` for messages of the
protocol. Both processes look here and nowhere else, and a test holds every route and operation against the table.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple


class Role(Enum):
    """What a user is, from least to most."""

    VIEWER = "viewer"
    TRADER = "trader"
    ADMIN = "admin"


class Rule(NamedTuple):
    """Who may do one thing.

    Attributes:
        roles: who may.
        owned: whether the thing it is done to may belong to somebody, and then only he and admins may.
        public: whether anybody may, without a token.
    """

    roles: frozenset[Role]
    owned: bool = False
    public: bool = False


_ALL: Final = frozenset(Role)
_ANYBODY: Final = Rule(_ALL, public=True)
_VIEWER: Final = Rule(_ALL)
_TRADER: Final = Rule(frozenset({Role.TRADER, Role.ADMIN}))
_OWNER: Final = _TRADER._replace(owned=True)


def _each(rule: Rule, names: Iterable[str]) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


RULES: Final[dict[str, Rule]] = {
    # the console's files hold no data; without them nobody could show a token
    **_each(_ANYBODY, ("GET /", "GET /health", "GET /ready")),
    # the api
    **_each(
        _VIEWER,
        (
            "GET /metrics", "GET /v1/config", "GET /v1/tapes", "GET /v1/tapes/{tape}", "GET /v1/cursor",
            "GET /v1/serving", "GET /v1/serving/{name}", "GET /v1/status", "GET /v1/schema", "GET /v1/openapi.json",
        ),
    ),
    "POST /v1/sql": _TRADER,
    # the schema registry; what would change something is answered with a refusal of its own
    **_each(
        _VIEWER,
        (
            "GET /subjects", "POST /subjects/{subject}", "GET /subjects/{subject}/versions",
            "GET /subjects/{subject}/versions/{version}", "GET /subjects/{subject}/versions/{version}/schema",
            "GET /subjects/{subject}/versions/{version}/referencedby", "GET /schemas/types",
            "GET /schemas/ids/{schema_id}", "GET /schemas/ids/{schema_id}/schema",
            "GET /schemas/ids/{schema_id}/subjects", "GET /schemas/ids/{schema_id}/versions",
            "POST /compatibility/subjects/{subject}/versions",
            "POST /compatibility/subjects/{subject}/versions/{version}",
            "GET /config", "GET /config/{subject}", "GET /mode", "GET /mode/{subject}",
        ),
    ),
    **{
        f"{method} /{what}": Rule(frozenset({Role.ADMIN}))
        for method in ("POST", "PUT", "DELETE")
        for what in ("subjects/{rest:path}", "config{rest:path}", "mode{rest:path}")
    },
    # messages of the protocol. A cursor only goes on where somebody was: that is no replay of one's own choice.
    "ws auth": _ANYBODY,
    **_each(_VIEWER, ("ws subscribe", "ws unsubscribe", "ws pause", "ws resume")),
    **_each(_OWNER, ("ws subscribe past", "ws clock", "ws seek", "ws step", "ws speed")),
}  # fmt: skip


def may(role: Role | None, subject: str, what: str, owner: str | None = None) -> bool:
    """Whether somebody may do something.

    Args:
        role: his role; None for somebody without a token.
        subject: who he is.
        what: a name of the table.
        owner: whose thing it is done to; None: nobody's.
    """
    rule = RULES.get(what)
    if rule is None:
        return False
    if rule.public:
        return True
    if role is None or role not in rule.roles:
        return False
    return not rule.owned or owner is None or owner == subject or role is Role.ADMIN
