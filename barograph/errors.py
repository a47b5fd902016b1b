"""What can go wrong for a client of the gateway.

Whoever catches `ConnectionLostError` may go on from its cursor; the others mean that what was asked for is not to be
had, or that what came cannot be trusted.
"""

from runtime.errors import BarographError, MissingServiceError


class GatewayError(BarographError):
    """The gateway refused an operation, or ended a subscription or connection for a reason that trying again keeps.

    Attributes:
        code: short and stable, e.g. `unknown_tape`, `token`, `slow`, `schema_changed`, `tape_replaced`.
    """

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        self.code = code
        super().__init__(message, remedy=remedy)


class ConnectionLostError(MissingServiceError):
    """The connection ended before the subscription did, and nobody answered any more.

    Attributes:
        cursor: the last row seen, to go on from with `start=`; empty if none was.
    """

    def __init__(self, reason: str, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(
            f"the gateway's connection ended ({reason})", remedy="connect again, with start= the last cursor"
        )


class WrongFramesError(BarographError):
    """What came is not what the gateway sent: a message is missing or repeated, or a digest differs.

    Attributes:
        cursor: the last row before it; after a wrong digest, rows up to ten seconds before it are in doubt too.
    """

    def __init__(self, what: str, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(
            f"frames are not as the gateway sent them ({what})", remedy="read again from an earlier cursor"
        )
