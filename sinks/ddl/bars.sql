CREATE TABLE IF NOT EXISTS bars
(
    tape LowCardinality(String) COMMENT 'tape that the row belongs to',
    line LowCardinality(String) COMMENT 'configuration of the derived stages; - for raw rows',
    instrument LowCardinality(String) COMMENT 'VENUE:SYMBOL',
    partition Int32 CODEC(ZSTD(1)) COMMENT 'partition of the topic',
    seq Int64 CODEC(Delta, ZSTD(1)) COMMENT 'number of the root message in the raw stream',
    part Int32 CODEC(ZSTD(1)) COMMENT 'message among those of this seq',
    row Int32 CODEC(ZSTD(1)) COMMENT 'row within the message, from 0',
    run LowCardinality(String) COMMENT 'code and configuration that made it; empty for raw rows',
    interval_ns Int64 CODEC(ZSTD(1)) COMMENT 'width of the bar [ns]',
    ts_start_ns Int64 CODEC(Delta, ZSTD(1)) COMMENT 'start of the bar, inclusive; a multiple of its width [ns]',
    ts_end_ns Int64 CODEC(Delta, ZSTD(1)) COMMENT 'end of the bar, exclusive [ns]',
    open_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'price of the first trade; UNDEF_PRICE if no trade had one, as in all prices here [1e-9]',
    high_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'highest price [1e-9]',
    low_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'lowest price [1e-9]',
    close_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'price of the last trade [1e-9]',
    vwap_px Int64 CODEC(Delta, ZSTD(1)) COMMENT 'mean price, each lot counted once, floor; UNDEF_PRICE if no lot had a price [1e-9]',
    volume_sz Int64 CODEC(ZSTD(1)) COMMENT 'size of all trades [lots]',
    trade_buy_sz Int64 CODEC(ZSTD(1)) COMMENT 'size of trades with a buying aggressor [lots]',
    trade_sell_sz Int64 CODEC(ZSTD(1)) COMMENT 'size of trades with a selling aggressor [lots]',
    trade_none_sz Int64 CODEC(ZSTD(1)) COMMENT 'size of trades without an aggressor [lots]',
    trade_notional Float64 CODEC(ZSTD(1)) COMMENT 'sum of price times size [currency * lots]',
    trade_count Int64 CODEC(ZSTD(1)) COMMENT 'trades [trades]',
    ts_end_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_end_ns, 'UTC'),
    ts_start_utc DateTime64(9, 'UTC') ALIAS fromUnixTimestamp64Nano(ts_start_ns, 'UTC'),
    INDEX seq_range seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY (tape, line)
ORDER BY (tape, line, instrument, ts_end_ns, seq, part, row)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_merge = 1
