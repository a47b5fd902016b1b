import pytest

from sinks.reconcile import Difference, Held, ReconcileReport, TableReport, compare

EXPECTED = {(0, 0): 0, (1, 0): 3, (1, 1): 2}


@pytest.mark.parametrize(
    ("held", "outcome"),
    [
        ({(1, 0): Held(3, 3, 2), (1, 1): Held(2, 2, 1)}, (0, 0)),
        ({(1, 0): Held(3, 3, 2)}, (2, 0)),
        ({(1, 0): Held(5, 3, 2), (1, 1): Held(2, 2, 1)}, (0, 2)),
        ({(1, 0): Held(2, 2, 2), (1, 1): Held(2, 2, 1)}, (1, 0)),
        ({(1, 0): Held(3, 3, 2), (1, 1): Held(2, 2, 1), (0, 0): Held(1, 1, 0)}, (0, 1)),
        ({(1, 0): Held(3, 3, 2), (1, 1): Held(2, 2, 1), (9, 0): Held(4, 4, 3)}, (0, 4)),
        ({(1, 0): Held(4, 4, 3), (1, 1): Held(2, 2, 1)}, (0, 1)),
        ({(1, 0): Held(3, 3, 7), (1, 1): Held(2, 2, 1)}, (1, 1)),
    ],
    ids=[
        "equal",
        "missing",
        "twice",
        "one-of-three",
        "in-an-empty-message",
        "of-no-message",
        "one-more",
        "another-row",
    ],
)
def test_compare_counts_both_ways(held, outcome) -> None:
    assert compare(EXPECTED, held) == Difference(*outcome)


def test_a_missing_message_of_the_lake_counts_as_missing() -> None:
    report = ReconcileReport({"bins": TableReport(5, None, 5, 0, 0, 3, 1)})
    assert report.missing == 1
    assert not report.clean
    assert report.to_dict()["tables"]["bins"]["lake_messages_missing"] == 1
