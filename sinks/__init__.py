"""Sinks: topics into stores, each row once. ClickHouse for SQL, Parquet files for the lake, one anatomy for both.

Start reading at `runner`, whose one method is the whole pipeline; `base` says what a sink promises; `progress` why a
crash anywhere leaves nothing missing and nothing twice; `rows` makes rows of messages; `tables` and `ddl` say what the
tables are; `records` and `registers` are about what several producers say, of a tape and of all. `reconcile` counts
what is in a topic against what is in the stores.
"""
