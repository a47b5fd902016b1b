"""The page may open sockets to the gateway alone."""

from control.api import security_headers


def test_sockets_go_to_the_gateway_or_to_this_machine_while_it_is_unknown() -> None:
    known = security_headers("ws://127.0.0.1:8761/v1/stream")["Content-Security-Policy"]
    assert "connect-src 'self' ws://127.0.0.1:8761;" in known
    unknown = security_headers(None)["Content-Security-Policy"]
    assert "connect-src 'self' ws://127.0.0.1:* ws://localhost:*;" in unknown
