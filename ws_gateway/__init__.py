"""From topics to browsers: the WebSocket gateway, protocol `barograph.v1`.

    Kafka ─► feeder ─► rings ─┐
            (thread)          ├─► reading ─► subscription ─► session ─► outlet ─► socket
    lake,  ─► replay ─► library┘     place      what, when    protocol
    topics   (workers)

- `catalogue` says what may be subscribed to, `request` what was asked for, `decode` what rows a message holds.
- `feeder` reads the derived topics of every tape and line; `rings` keep the newest blocks of each `channel`.
- `library` keeps the books over what is older, `replay` reads it; `reading` goes from the one to the other.
- `frames` turns rows into Arrow messages once for everyone who wants the same; `clock` paces replays.
- `subscription` decides what one reader gets next; `protocol` is one client's session: a transition table, without I/O
  or clock. `server` is its shell over sockets, `outlet` its way onto them.
"""
