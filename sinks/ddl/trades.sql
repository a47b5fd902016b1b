CREATE TABLE IF NOT EXISTS trades
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    ts_ns Int64 CODEC(Delta, ZSTD(1)) COMMENT 'engine time of the trade [ns]',
    px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'price; UNDEF_PRICE if the venue gave none [1e-9]',
    sz Int64 CODEC(ZSTD(1)) COMMENT 'size; 0 if the venue gave none [lots]',
    side Int8 CODEC(ZSTD(1)) COMMENT 'aggressor: +1 buys, -1 sells, 0 neither [sign]',
    sequence Int64 CODEC(Delta, ZSTD(1)) COMMENT 'venue\'s sequence number of the record [count]',
    best_bid_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'best bid before the trade; UNDEF_PRICE if the side is empty [1e-9]',
    best_bid_sz Int64 CODEC(ZSTD(1)) COMMENT 'size at that price; 0 if empty [lots]',
    best_ask_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'best ask before the trade; UNDEF_PRICE if the side is empty [1e-9]',
    best_ask_sz Int64 CODEC(ZSTD(1)) COMMENT 'size at that price; 0 if empty [lots]',
    ts_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_ns, 'UTC'),
    INDEX seq_range seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY (tape, line)
ORDER BY (tape, line, instrument, ts_ns, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
