-- Bins with the four vectors that people expect and nobody stores: the sums of the bid and the ask side.
CREATE OR REPLACE VIEW bins_full AS
SELECT
    *,
    arrayMap((b, a) -> b + a, bid_depth, ask_depth) AS rest_depth,
    arrayMap((b, a) -> b + a, v_bid_depth, v_ask_depth) AS v_rest_depth,
    arrayMap((b, a) -> b + a, a_bid_depth, a_ask_depth) AS a_rest_depth,
    arrayMap((b, a) -> b + a, j_bid_depth, j_ask_depth) AS j_rest_depth
FROM bins
