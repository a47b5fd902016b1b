-- Where lines went on under another run: rows after seq are those of to_run.
CREATE OR REPLACE VIEW cutovers AS
SELECT
    tape,
    tape_id,
    line,
    stage,
    of_partition AS partition,
    seq,
    from_run,
    to_run,
    checkpoint,
    fromUnixTimestamp64Milli(toInt64(announced_ms), 'UTC') AS announced_utc
FROM ops_runs FINAL
