-- Tapes as they stand: the newest manifest of each, as JSON, and what is asked most of it.
CREATE OR REPLACE VIEW tapes AS
SELECT
    tape,
    tape_id,
    state,
    partitions,
    JSONExtractBool(manifest, 'live') AS live,
    JSONExtractKeys(manifest, 'lines') AS lines,
    JSONExtractKeys(manifest, 'instruments') AS instruments,
    arrayMap(s -> JSONExtractString(s, 'name'), JSONExtractArrayRaw(manifest, 'sources')) AS sources,
    fromUnixTimestamp64Milli(toInt64(announced_ms), 'UTC') AS announced_utc,
    manifest
FROM ops_tapes FINAL
