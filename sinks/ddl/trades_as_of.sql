-- Trades with what was known of the grid when they happened: the newest bin that had ended by then, and nothing later.
-- A bin covers the times before its end, so one that ends at the trade's own nanosecond is known; the bin in which the
-- trade lies is not. Trades before the first bin have bin_seq 0 and age_ns -1.
CREATE OR REPLACE VIEW trades_as_of AS
SELECT
    t.tape AS tape,
    t.line AS line,
    t.instrument AS instrument,
    t.seq AS seq,
    t.part AS part,
    t.row AS row,
    t.ts_ns AS ts_ns,
    t.px AS px,
    t.sz AS sz,
    t.side AS side,
    b.bin_seq AS bin_seq,
    if(b.ts_end_ns = 0, -1, t.ts_ns - b.ts_end_ns) AS age_ns,
    b.book_state AS book_state,
    b.mid_px AS mid_px,
    b.best_bid_px AS best_bid_px,
    b.best_ask_px AS best_ask_px,
    b.best_bid_sz AS best_bid_sz,
    b.best_ask_sz AS best_ask_sz,
    b.ofi AS ofi,
    b.microstate AS microstate
FROM trades AS t
ASOF LEFT JOIN bins AS b
    ON b.tape = t.tape AND b.line = t.line AND b.instrument = t.instrument AND b.ts_end_ns <= t.ts_ns
