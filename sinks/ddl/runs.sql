-- Which code and configuration computes each line of each tape. What computed it before stands in cutovers.
CREATE OR REPLACE VIEW runs AS
SELECT
    tape,
    tape_id,
    known.1 AS line,
    JSONExtractString(known.2, 'run') AS run,
    JSONExtractRaw(known.2, 'config') AS config,
    JSONExtractBool(known.2, 'complete') AS complete
FROM ops_tapes FINAL
ARRAY JOIN JSONExtractKeysAndValuesRaw(manifest, 'lines') AS known
WHERE state != 'deleted'
