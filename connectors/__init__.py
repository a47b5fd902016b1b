"""Where order events come in: DBN files, a simulated market. Each source is a parser without I/O and a shell beside it.

How a DBN file becomes messages on a tape, in reading order:

1. `zstd_frames` → `dbn_records` (with `dbn_metadata`): bytes to runs of records, each step proving its input whole;
   `dbn_file` is the shell that reads.
2. `dbn_verify` proves a file whole before anything is published; `inspect` says what is in it. `dbn_stats` counts.
3. `blocks` cuts records into messages by the file alone; `pacer` says when each is due; `instruments` knows ticks.
4. `raw_messages` builds the four kinds of message; `dbn_replay` publishes definition, blocks, end, and goes on after a
   restart behind the last block.

`market_model` (with `market_kernels`) invents order flow, named in `synthetic`; `simulate` writes it
as a DBN file, `simulated_feed` publishes it live.
"""
