-- Bars of any width, made of trades when asked: SELECT * FROM bars_of(interval_ns = 300000000000) WHERE tape = ...
-- Columns and meanings are those of the table bars, which holds the widths that a line is configured with. Sums are
-- exact integers; only trade_notional is rounded. place orders trades as (ts_ns, seq, part, row) does, in one number:
-- finding the first and last of a bar by a tuple takes five times as long.
CREATE OR REPLACE VIEW bars_of AS
SELECT * EXCEPT (exact_notional, weight, priced)
FROM
(
    WITH
        bitShiftLeft(toInt256(ts_ns), 128) + bitShiftLeft(toInt256(seq), 64) + bitShiftLeft(toInt256(part), 32) + row AS place
    SELECT
        tape,
        line,
        instrument,
        {interval_ns:Int64} AS interval_ns,
        ts_ns - positiveModulo(ts_ns, {interval_ns:Int64}) AS ts_start_ns,
        ts_start_ns + {interval_ns:Int64} AS ts_end_ns,
        if(priced = 0, 9223372036854775807, argMinIf(px, place, px != 9223372036854775807)) AS open_px,
        if(priced = 0, 9223372036854775807, maxIf(px, px != 9223372036854775807)) AS high_px,
        min(px) AS low_px,
        if(priced = 0, 9223372036854775807, argMaxIf(px, place, px != 9223372036854775807)) AS close_px,
        sumIf(toInt256(px) * sz, px != 9223372036854775807) AS exact_notional,
        sumIf(sz, px != 9223372036854775807) AS weight,
        if(weight = 0, 9223372036854775807,
            toInt64(intDiv(exact_notional, greatest(weight, 1))
                - (exact_notional < 0 AND exact_notional % greatest(weight, 1) != 0))) AS vwap_px,
        sum(sz) AS volume_sz,
        sumIf(sz, side = 1) AS trade_buy_sz,
        sumIf(sz, side = -1) AS trade_sell_sz,
        sumIf(sz, side = 0) AS trade_none_sz,
        toFloat64(exact_notional) / 1e9 AS trade_notional,
        count() AS trade_count,
        countIf(px != 9223372036854775807) AS priced
    FROM trades
    GROUP BY tape, line, instrument, ts_start_ns
)
