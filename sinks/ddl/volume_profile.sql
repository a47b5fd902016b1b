-- Volume at price within bars: SELECT * FROM volume_profile(interval_ns = 3600000000000, bucket_px = 1000000000)
-- A row for each bar and each price range of bucket_px (1e-9) that traded; bucket_px = the tick gives single prices.
-- Trades without a price have no place here.
CREATE OR REPLACE VIEW volume_profile AS
SELECT
    tape,
    line,
    instrument,
    ts_ns - positiveModulo(ts_ns, {interval_ns:Int64}) AS ts_start_ns,
    px - positiveModulo(px, {bucket_px:Int64}) AS from_px,
    sum(sz) AS volume_sz,
    sumIf(sz, side = 1) AS trade_buy_sz,
    sumIf(sz, side = -1) AS trade_sell_sz,
    count() AS trade_count
FROM trades
WHERE px != 9223372036854775807
GROUP BY tape, line, instrument, ts_start_ns, from_px
