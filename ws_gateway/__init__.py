"""From topics to browsers: the WebSocket gateway, protocol `barograph.v1`.

    Kafka ─► feeder ─► rings ─► encoders ─► subscriptions ─► session ─► server ─► socket
            (thread)   └────────── fanout, frames, protocol: no I/O ──────┘

- `feeder` reads the derived topics of every tape and line and hands blocks of rows to the hub.
- `rings` keep the newest blocks of each stream; `frames` turns rows into Arrow messages once per kind of subscription;
  `fanout` gives each subscription its place in a ring and decides what a slow reader gets.
- `protocol` is one client's session: a transition table, without I/O or clock. `server` is its shell over sockets.
"""
