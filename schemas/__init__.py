"""What travels between the parts of barograph: records, topics, headers, names. No I/O, no clock.

How one order event gets from the wire to a column:

1. A venue or a DBN file gives a record of 56 bytes (`mbo`). Up to 4,096 of them, of one instrument, are the value of
   one message on the raw topic; its headers (`envelope`) say what the bytes are.
2. The books stage turns each raw message into rows of `bins` and `trades`, which travel as Arrow IPC streams.
3. `topics` names every topic, its key, value, producer and consumers; `names` spells tapes, instruments and cursors.
4. Small control records (definitions, gaps, tapes) are Avro, declared in `avro/`.

Everything else in the project imports from here; nothing here imports from the project.
"""
