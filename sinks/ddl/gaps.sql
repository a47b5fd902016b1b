CREATE TABLE IF NOT EXISTS gaps
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    id String CODEC(ZSTD(1)) COMMENT 'sha256 of line, stage, topic, partition, first seq and cause, in hex: the same gap found twice has one id',
    of_instrument String CODEC(ZSTD(1)) COMMENT 'VENUE:SYMBOL',
    of_line String CODEC(ZSTD(1)) COMMENT 'line that has the gap; empty where all lines have it',
    stage String CODEC(ZSTD(1)) COMMENT 'who found it',
    topic String CODEC(ZSTD(1)) COMMENT 'input that is affected',
    of_partition Int32 CODEC(ZSTD(1)) COMMENT 'its partition',
    seq_from Int64 CODEC(ZSTD(1)) COMMENT 'first root message affected',
    seq_to Int64 CODEC(ZSTD(1)) COMMENT 'last root message affected, inclusive',
    ts_from Int64 CODEC(Delta, ZSTD(1)) COMMENT 'ns; first time affected, -1 if unknown',
    ts_to Int64 CODEC(Delta, ZSTD(1)) COMMENT 'ns; last time affected, -1 if unknown',
    cause String CODEC(ZSTD(1)) COMMENT 'what happened, for people',
    epoch Int64 CODEC(ZSTD(1)) COMMENT 'resets of the instrument\'s book before the gap, -1 if unknown',
    ts_from_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_from, 'UTC'),
    ts_to_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_to, 'UTC'),
    INDEX ts_from_range ts_from TYPE minmax GRANULARITY 1,
    INDEX ts_to_range ts_to TYPE minmax GRANULARITY 1,
    INDEX id_known id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY tape
ORDER BY (tape, instrument, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
