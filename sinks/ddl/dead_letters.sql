CREATE TABLE IF NOT EXISTS dead_letters
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    id String CODEC(ZSTD(1)) COMMENT 'sha256 of line, stage, topic, partition and offset, in hex',
    of_line String CODEC(ZSTD(1)) COMMENT 'line whose stage skipped it',
    stage String CODEC(ZSTD(1)) COMMENT 'stage that skipped it',
    of_run String CODEC(ZSTD(1)) COMMENT 'identity of code and configuration that skipped it',
    topic String CODEC(ZSTD(1)) COMMENT 'topic of the message',
    of_partition Int32 CODEC(ZSTD(1)) COMMENT 'its partition',
    offset Int64 CODEC(ZSTD(1)) COMMENT 'its offset',
    of_seq Int64 CODEC(ZSTD(1)) COMMENT 'number of its root message',
    timestamp_ms Int64 CODEC(ZSTD(1)) COMMENT 'Kafka\'s timestamp of the message',
    key String CODEC(ZSTD(1)) COMMENT 'key, as it was',
    value String CODEC(ZSTD(1)) COMMENT 'value, as it was',
    headers Array(Tuple(name String, value String)) CODEC(ZSTD(1)) COMMENT 'headers in order, as they were',
    reason String CODEC(ZSTD(1)) COMMENT 'why it was skipped, for people',
    error String CODEC(ZSTD(1)) COMMENT 'type of the error; empty if the process died without one',
    trace String CODEC(ZSTD(1)) COMMENT 'traceback; empty if there was none',
    attempts Int32 CODEC(ZSTD(1)) COMMENT 'how often it was tried',
    INDEX id_known id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY tape
ORDER BY (tape, instrument, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
