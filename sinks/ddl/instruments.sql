-- Instruments of each tape, as its manifest has them: what was published as the definition before their first data.
CREATE OR REPLACE VIEW instruments AS
SELECT
    tape,
    known.1 AS instrument,
    JSONExtract(known.2, 'partition', 'Int32') AS partition,
    JSONExtract(known.2, 'tick_px', 'Int64') AS tick_px,
    JSONExtract(known.2, 'bucket', 'Int64') AS bucket,
    JSONExtractString(known.2, 'lot') AS lot,
    JSONExtractString(known.2, 'venue_symbol') AS venue_symbol,
    JSONExtractString(known.2, 'tick_source') AS tick_source
FROM ops_tapes FINAL
ARRAY JOIN JSONExtractKeysAndValuesRaw(manifest, 'instruments') AS known
WHERE state != 'deleted'
