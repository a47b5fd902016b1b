CREATE TABLE IF NOT EXISTS ops_runs
(
    topic LowCardinality(String) COMMENT 'topic of the message',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    offset Int64 CODEC(ZSTD(1)) COMMENT 'its offset',
    announced_ms UInt64 CODEC(ZSTD(1)) COMMENT 'its stamp, ms; of two rows of a key the one with the greater stands',
    key LowCardinality(String) COMMENT 'its key',
    id String CODEC(ZSTD(1)) COMMENT 'TAPE_ID/LINE/STAGE/PARTITION/SEQ',
    tape String CODEC(ZSTD(1)) COMMENT 'tape',
    tape_id String CODEC(ZSTD(1)) COMMENT 'random id of the tape',
    line String CODEC(ZSTD(1)) COMMENT 'line',
    stage String CODEC(ZSTD(1)) COMMENT 'stage',
    of_partition Int32 CODEC(ZSTD(1)) COMMENT 'partition',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'last root message of the old run; the new one starts after it',
    from_run String CODEC(ZSTD(1)) COMMENT 'run until there',
    to_run String CODEC(ZSTD(1)) COMMENT 'run from there on',
    checkpoint String CODEC(ZSTD(1)) COMMENT 'sha256 of the checkpoint\'s manifest whose state is taken over'
)
ENGINE = ReplacingMergeTree(announced_ms)
ORDER BY (topic, key)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
