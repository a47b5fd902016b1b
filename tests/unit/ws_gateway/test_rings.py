from hypothesis import given
from hypothesis import strategies as st

from ws_gateway.rings import Budget, Ring


def test_rows_are_found_by_number(blocks):
    ring = Ring()
    for seq, rows in enumerate((1, 3, 2)):
        ring.append(blocks(seq, rows, first_bin=10 * seq))
    assert len(ring) == 6
    assert [(ring.at(n)[0].seq, ring.at(n)[1]) for n in range(6)] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_rows_at_or_after_a_place(blocks):
    ring = Ring()
    for seq, rows in ((4, 1), (6, 3), (9, 2)):
        ring.append(blocks(seq, rows))
    assert ring.number_of((4, 0, 1)) == 1
    assert ring.number_of((6, 0, 1)) == 2
    assert ring.number_of((6, 0, 3)) == 4
    assert ring.number_of((5, 7, 9)) == 1
    assert ring.number_of((0, 0, 1)) == 0
    assert ring.number_of((9, 0, 2)) == ring.next_row
    assert ring.number_of((99, 0, 1)) == ring.next_row


def test_a_ring_knows_from_which_place_on_nothing_is_missing(blocks):
    ring = Ring()
    assert not ring.covers((0, 0, 0))
    ring.heard((3, 1))
    ring.append(blocks(4, 1))
    ring.append(blocks(6, 3))
    assert ring.covers((3, 1, 0))
    assert not ring.covers((3, 0, 9))
    ring.drop_oldest()
    assert not ring.covers((4, 0, 1))
    assert ring.covers((5, 0, 0))


def test_rows_from_a_bin_and_a_time(blocks, trade_blocks):
    ring = Ring()
    ring.append(blocks(1, 2, first_bin=10))
    ring.append(blocks(2, 1, first_bin=20))
    assert [ring.from_bin(n) for n in (0, 10, 11, 12, 20, 21)] == [0, 0, 1, 2, 2, 3]
    assert [ring.from_time(n * 100_000_000) for n in (0, 10, 11, 12, 20, 21)] == [0, 0, 1, 2, 2, 3]
    ticks = Ring()
    ticks.append(trade_blocks(5, rows=3))
    assert ticks.from_time(500_000_001) == 1
    assert Ring().from_time(5) == 0


def test_records_of_several_producers_are_not_in_the_order_of_their_times(trade_blocks):
    ring = Ring()
    for seq in (0, 1, 2, 3, 0, 1, 2, 3):
        ring.append(trade_blocks(seq))
    assert ring.from_time(200_000_000, ordered=False) == 2
    assert ring.from_time(400_000_000, ordered=False) == ring.next_row


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=60), st.integers(1000, 12_000))
def test_the_budget_holds_and_only_the_oldest_go(blocks_of, limit):
    budget, rings, seen = Budget(limit), [Ring(), Ring(), Ring()], []
    for seq, (which, rows) in enumerate(blocks_of):
        block = _block(seq, rows)
        budget.append(rings[which], block)
        seen.append((which, block))
    held = [b for ring in rings for b in ring._blocks]
    assert budget.held_bytes == sum(b.nbytes for b in held)
    assert budget.held_bytes <= limit or len(held) == 1
    assert sorted(b.seq for b in held) == [b.seq for _, b in seen[len(seen) - len(held) :]]


def test_a_forgotten_ring_gives_its_bytes_back(blocks):
    budget, kept, gone = Budget(10_000), Ring(), Ring()
    budget.append(kept, blocks(0))
    budget.append(gone, blocks(1))
    budget.forget(gone)
    assert budget.held_bytes == 1000
    for seq in range(2, 30):
        budget.append(kept, blocks(seq))
    assert budget.held_bytes <= 10_000


def _block(seq, rows):
    import numpy as np

    from ws_gateway.frames import Block

    return Block(seq, 0, {"bin_seq": np.arange(rows)}, 1000 * rows)
