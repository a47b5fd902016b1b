"""Stream stages: pure reducers, and the one shell that runs them over Kafka.

How to read this folder, from the pure to the plumbing:

1. `reducer` says what a stage is: messages in, rows out, state that can be stored. `build_books` is one.
2. `partition` holds one input partition: the repeat rule, the reducer, and the cutting of rows into output messages.
   No I/O: a test runs it without a broker.
3. `checkpoints` keeps the state of a partition in an object store.
4. `faust_consumer` and `faust_app` are Faust as we use it, with the reasons.
5. `shell` puts them together: assignment, messages, checkpoints. The delivery guarantee is its `checkpoint` method.
6. `stages` lists the stages; `run_id` names code and configuration; `worker` is the process.
"""
