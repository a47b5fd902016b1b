"""Stream stages: pure reducers, and the one shell that runs them over Kafka.

How to read this folder, from the pure to the plumbing:

1. `reducer` says what a stage is: messages in, rows out, state that can be stored. `build_books` is one.
2. `partition` holds one input partition: the repeat rule, the reducer, and the cutting of rows into output messages.
   No I/O: a test runs it without a broker. `outbox` keeps the outputs of one message until all of them exist.
3. `checkpoints` keeps the state of a partition in an object store, `poison` what cannot be applied, `cutover` where a
   line goes on under another run.
4. `shell` puts them together: assignment, messages, checkpoints, skips. The delivery guarantee is its `checkpoint`
   method. It knows no Kafka client.
5. `faust_consumer`, `faust_app` and `faust_stage` are Faust as we use it, with the reasons.
6. `stages` lists the stages; `run_id` names code and configuration; `worker` is the process, `watch` its watchdog.
"""
