CREATE TABLE IF NOT EXISTS ops_tapes
(
    topic LowCardinality(String) COMMENT 'topic of the message',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    offset Int64 CODEC(ZSTD(1)) COMMENT 'its offset',
    announced_ms UInt64 CODEC(ZSTD(1)) COMMENT 'its stamp, ms; of two rows of a key the one with the greater stands',
    key LowCardinality(String) COMMENT 'its key',
    tape String CODEC(ZSTD(1)) COMMENT '',
    tape_id String CODEC(ZSTD(1)) COMMENT 'random; new when the tape is replaced',
    state String CODEC(ZSTD(1)) COMMENT 'open, finished or deleted',
    partitions Int32 CODEC(ZSTD(1)) COMMENT '',
    manifest String CODEC(ZSTD(1)) COMMENT 'the whole manifest as JSON'
)
ENGINE = ReplacingMergeTree(announced_ms)
ORDER BY (topic, key)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
