"""The book, its physics and gold: order events in, pressure of the market per bin of time and tick of price out.

The engine is pure: what comes out depends on the records, clock messages and settings that went in and on nothing else.
No clock, no I/O, no logging, no randomness, and no function of the C library whose last bit depends on
the processor. The same records give the same bits on every machine, in whatever blocks they come, and from any
snapshot on.

How a record becomes a row, and the files in the order in which to read them:

1. `state` declares all memory and `machine` gives kernels their view of it; `_jit` is the one way in which they are
   compiled. `ticks` turns prices into ticks.
2. `record_time` gives the record its engine time, which never goes back; `bins` closes every bin that ends before it.
3. `actions` says what the record means to the full order book, `book`: every order, its place in the queue. Orders are
   found by id in `order_index`. What is odd is counted in `counters`.
4. What the record did to the flow at its tick (lots added, pulled, filled, depth changed) goes to `grid`, which keeps
   for each tick three decaying masses and the velocity, acceleration and jerk of five quantities (`chains`, with the
   functions of `exponential`).
5. When a bin closes, `bins` reads the grid around the mid and writes one row; `trades` writes its rows as records pass,
   `events` those of MBP-10 as events end.
6. `driver` runs this over a block of records. Before it applies the first, `records` looks at all of them; while it
   applies one, `ahead` asks for the memory that those after it will touch (the look-ahead), which changes no result.
7. `engine.Engine` is what users hold: `apply`, `advance`, `flush`, `snapshot`, `restore`. Behind it `memory` makes and
   grows the arrays, `snapshot` writes and reads the state, `digest` hashes the book. `errors` has what may be raised.
8. `gold.Gold` takes the rows of bins and gives pressure, vacuum, the flow score and what goes with them. Its kernels
   are in `gold_rows`, on medians from `sorted_window` and the tanh of `hyperbolic`. It reads no book and no record.

Beside the path of a record, `framing` is how states lie in bytes, and `warm` compiles everything at installation.

With `EngineConfig(physics=False)` step 4 is left out: book, scalars of bins, trades and MBP-10 are the same, the
vectors of the grid are zero, and the book is several times faster.

From 2 to 6, and in gold's rows, everything is a numba kernel over arrays that were made before: no allocation, no
Python object.
"""
