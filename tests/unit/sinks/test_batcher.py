from sinks.batcher import Batcher, Limits

LIMITS = Limits(rows=10, bytes=100, age_s=2.0)


def test_empty_is_never_due() -> None:
    assert not Batcher(LIMITS).due(1e9)


def test_due_by_rows_bytes_age_and_end() -> None:
    by_rows, by_bytes, by_age, by_end = (Batcher(LIMITS) for _ in range(4))
    by_rows.add(10, 1, 0.0)
    by_bytes.add(1, 100, 0.0)
    by_age.add(1, 1, 5.0)
    by_end.add(0, 0, 0.0, urgent=True)
    assert by_rows.full()
    assert by_rows.due(0.0)
    assert by_bytes.full()
    assert by_bytes.due(0.0)
    assert not by_age.due(6.99)
    assert by_age.due(7.0)
    assert not by_age.full()
    assert by_end.due(0.0)
    assert not by_end.full()


def test_age_counts_from_the_first_message() -> None:
    batcher = Batcher(LIMITS)
    batcher.add(0, 0, 1.0)
    batcher.add(0, 0, 2.9)
    assert batcher.due(3.0)


def test_clear_starts_anew() -> None:
    batcher = Batcher(LIMITS)
    batcher.add(99, 999, 0.0, urgent=True)
    batcher.clear()
    assert not batcher.due(100.0)
    batcher.add(1, 1, 100.0)
    assert not batcher.due(101.0)
