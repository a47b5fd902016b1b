CREATE TABLE IF NOT EXISTS events
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    id String CODEC(ZSTD(1)) COMMENT 'sha256 of instrument, kind, ts_event and the venue\'s own words, in hex: the same event received twice has one id',
    of_instrument String CODEC(ZSTD(1)) COMMENT 'VENUE:SYMBOL',
    kind String CODEC(ZSTD(1)) COMMENT 'mark_price, index_price, funding, open_interest, liquidation, status or statistics',
    ts_event Int64 CODEC(Delta, ZSTD(1)) COMMENT 'ns; when it holds from, by the venue\'s clock',
    ts_recv Int64 CODEC(Delta, ZSTD(1)) COMMENT 'ns; when it was received, -1 if unknown',
    px Int64 CODEC(Delta, ZSTD(1)) COMMENT '1e-9 of the currency; UNDEF_PRICE if the event has no price',
    value String CODEC(ZSTD(1)) COMMENT 'number beside the price, decimal as the venue gave it: funding rate, open interest, size; empty if none',
    side Int32 CODEC(ZSTD(1)) COMMENT '+1 buys, -1 sells, 0 neither',
    ts_next Int64 CODEC(Delta, ZSTD(1)) COMMENT 'ns; until when it holds, such as the next funding; -1 if unknown',
    text String CODEC(ZSTD(1)) COMMENT 'the venue\'s own words, such as a trading status; empty if none',
    ts_event_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_event, 'UTC'),
    ts_recv_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_recv, 'UTC'),
    ts_next_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_next, 'UTC'),
    INDEX ts_event_range ts_event TYPE minmax GRANULARITY 1,
    INDEX ts_recv_range ts_recv TYPE minmax GRANULARITY 1,
    INDEX ts_next_range ts_next TYPE minmax GRANULARITY 1,
    INDEX id_known id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY tape
ORDER BY (tape, instrument, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
