"""What the gateway tells about itself at `/metrics`. Labels are bounded: never a client or an address."""

from typing import Final

from prometheus_client import Counter, Gauge

CLIENTS: Final = Gauge("barograph_gateway_clients", "Clients connected now")
OPENED: Final = Counter("barograph_gateway_connections", "Connections accepted")
CLOSED: Final = Counter("barograph_gateway_closed", "Connections closed by the gateway", ["code"])
ABORTED: Final = Counter("barograph_gateway_aborted", "Connections cut because the client stopped reading")
MESSAGES: Final = Counter("barograph_gateway_messages", "Messages sent", ["kind"])
SENT_BYTES: Final = Counter("barograph_gateway_sent_bytes", "Payload bytes sent")
ROWS: Final = Counter("barograph_gateway_rows", "Rows taken from topics", ["topic"])
HOLES: Final = Counter("barograph_gateway_holes", "Missing ranges found in topics")
RING_BYTES: Final = Gauge("barograph_gateway_ring_bytes", "Memory that rings hold, in bytes")
