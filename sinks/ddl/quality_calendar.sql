-- How far each instrument can be trusted, by day (UTC): how long its book was in which state, and what is missing.
-- A bin and its records count for the day in which the bin starts: ends are exclusive, so the last bin of a day ends on
-- the next one. A state lasts from the end of its bin to the end of the next one, at most to midnight: what a book was
-- over a night or a weekend says nothing about days without bins. After the last bin of a tape nothing is known. Bins
-- without events have no row, so a silence is a long stretch between two ends of one day.
-- coverage is the part of the known time in which the book was VALID; gaps counts what the gap records of the line, or
-- of all lines, say began on that day; those whose time is unknown count on the day 1970-01-01.
CREATE OR REPLACE VIEW quality_calendar AS
WITH states AS
(
    SELECT
        tape,
        line,
        instrument,
        toDate(fromUnixTimestamp64Nano(ts_start_ns, 'UTC')) AS day,
        (intDiv(ts_start_ns, 86400000000000) + 1) * 86400000000000 AS midnight_ns,
        ts_end_ns,
        event_count,
        book_state,
        leadInFrame(ts_end_ns, 1, ts_end_ns) OVER bins_in_order AS next_ns,
        greatest(least(next_ns, midnight_ns) - ts_end_ns, 0) AS lasts_ns
    FROM bins
    WINDOW bins_in_order AS
    (
        PARTITION BY tape, line, instrument
        ORDER BY ts_end_ns
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
),
days AS
(
    SELECT
        tape,
        line,
        instrument,
        day,
        count() AS bins,
        sum(event_count) AS records,
        min(ts_end_ns) AS first_ns,
        max(ts_end_ns) AS last_ns,
        sum(lasts_ns) / 1e9 AS known_s,
        sumIf(lasts_ns, book_state = 2) / 1e9 AS valid_s,
        sumIf(lasts_ns, book_state = 3) / 1e9 AS suspect_s,
        sumIf(lasts_ns, book_state IN (0, 1)) / 1e9 AS partial_s,
        max(lasts_ns) / 1e9 AS longest_silence_s
    FROM states
    GROUP BY tape, line, instrument, day
),
missing AS
(
    SELECT
        tape,
        of_line,
        instrument,
        toDate(fromUnixTimestamp64Nano(greatest(ts_from, 0), 'UTC')) AS day,
        count() AS gaps,
        sumIf(ts_to - ts_from, ts_from >= 0 AND ts_to >= ts_from) / 1e9 AS gaps_s
    FROM gaps
    GROUP BY tape, of_line, instrument, day
),
lacking AS
(
    SELECT lines.tape AS tape, lines.line AS line, missing.instrument AS instrument, day, sum(gaps) AS gaps, sum(gaps_s) AS gaps_s
    FROM missing
    INNER JOIN (SELECT DISTINCT tape, line FROM bins) AS lines ON lines.tape = missing.tape
    WHERE missing.of_line IN ('', lines.line)
    GROUP BY tape, line, instrument, day
)
SELECT
    tape,
    line,
    instrument,
    day,
    bins,
    records,
    first_ns,
    last_ns,
    known_s,
    valid_s,
    suspect_s,
    partial_s,
    longest_silence_s,
    if(known_s = 0, 0, valid_s / known_s) AS coverage,
    gaps,
    gaps_s
FROM days
FULL OUTER JOIN lacking USING (tape, line, instrument, day)
