CREATE TABLE IF NOT EXISTS mbo
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    rtype UInt8 CODEC(ZSTD(1)),
    publisher_id UInt16 CODEC(ZSTD(1)),
    instrument_id UInt32 CODEC(ZSTD(1)),
    ts_event UInt64 CODEC(Delta, ZSTD(1)),
    order_id UInt64 CODEC(ZSTD(1)),
    price Int64 CODEC(Delta, ZSTD(1)),
    size UInt32 CODEC(ZSTD(1)),
    flags UInt8 CODEC(ZSTD(1)),
    channel_id UInt8 CODEC(ZSTD(1)),
    action LowCardinality(String),
    side LowCardinality(String),
    ts_recv UInt64 CODEC(Delta, ZSTD(1)),
    ts_in_delta Int32 CODEC(ZSTD(1)),
    sequence UInt32 CODEC(Delta, ZSTD(1)),
    ts_event_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(toInt64(ts_event), 'UTC'),
    ts_recv_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(toInt64(ts_recv), 'UTC'),
    INDEX ts_event_range ts_event TYPE minmax GRANULARITY 1,
    INDEX ts_recv_range ts_recv TYPE minmax GRANULARITY 1,
    INDEX order_id_known order_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY tape
ORDER BY (tape, instrument, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
