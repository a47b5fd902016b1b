"""The embedded parts: a real Apache Kafka and the real ClickHouse engine, each owned by one process."""
