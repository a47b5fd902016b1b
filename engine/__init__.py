"""The book and its physics: order events in, pressure of the market per bin of time and tick of price out.

How a record becomes a row:

1. `record_time` gives the record its engine time, which never goes back; `bins` closes every bin that ends before it.
2. `book` applies it to the full order book (every order, its price, its place in the queue).
3. What it did to the flow at its tick (lots added, pulled, filled, depth changed) goes to `grid`, which keeps for each
   tick three decaying masses and the velocity, acceleration and jerk of five quantities (`chains`).
4. When a bin closes, `bins` reads the grid around the mid and writes one row; `trades` and `mbp10` write theirs as
   records pass.
5. `driver` runs this over a block of records; `engine.Engine` is the object that users hold.

Everything from 1 to 4 is a numba kernel over arrays that were made before: no allocation, no Python object, no clock,
no randomness, and no function of the C library whose last bit depends on the processor (`exponential`). The same
records give the same bits on every machine, in whatever blocks they come.
"""
