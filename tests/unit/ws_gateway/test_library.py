"""The library's books: one job for one place, however many want it, and what becomes of jobs that fail."""

from functools import partial

import pytest

from ws_gateway.library import PLACE, READING_MAX, RETRY_NS, Failure, Library, Name, Segment, Want
from ws_gateway.request import Refusal, Start

NAME = Name("t1", "main", "bins", "X:Y")


def want(seq, part=0, name=NAME):
    return Want(name, "id-1", PLACE, (seq, part))


@pytest.fixture
def woken():
    return []


@pytest.fixture
def segment(blocks):
    def make(first, until, **known):
        made = tuple(blocks(seq) for seq in range(first, until))
        return Segment((first, 0), (until, 0), made, **known)

    return make


def test_a_thousand_who_want_the_same_make_one_job(segment, woken):
    library = Library()
    for number in range(1000):
        assert library.find(want(5), lambda n=number: woken.append(n), 0) is None
    job = library.take_job()
    assert (job, library.take_job()) == (want(5), None)
    library.finish(job, segment(5, 9))
    assert sorted(woken) == list(range(1000))
    assert library.find(want(5), woken.clear, 0).next == (9, 0)
    assert library.take_job() is None


def test_a_segment_answers_for_every_place_in_it(segment, woken):
    library = Library()
    wake = partial(woken.append, 1)
    for seq in (5, 6, 7, 40):
        library.find(want(seq), wake, 0)
    library.finish(library.take_job(), segment(5, 9))
    assert library.find(want(6), woken.clear, 0) is library.find(want(8), woken.clear, 0)
    assert [library.take_job(), library.take_job()] == [want(40), None], "6 and 7 are answered"
    assert len(woken) == 1, "who waits is told once"


def test_only_a_few_are_read_at_once(segment):
    library = Library()
    for seq in range(0, 1000, 10):
        library.find(want(seq), lambda: None, 0)
    jobs = [library.take_job() for _ in range(READING_MAX + 1)]
    assert None not in jobs[:-1]
    assert jobs[-1] is None
    library.finish(jobs[0], segment(0, 2))
    assert library.take_job() is not None


def test_a_failure_is_told_and_tried_again_after_a_while(woken):
    library = Library()
    library.find(want(5), lambda: woken.append(1), 0)
    failure = Failure(Refusal("unreadable", "no"), 100)
    library.finish(library.take_job(), failure)
    assert woken == [1]
    assert library.find(want(5), lambda: None, 101) is failure
    assert library.find(want(5), lambda: None, 100 + RETRY_NS) is None
    assert library.take_job() == want(5)


def test_an_empty_segment_at_the_end_is_believed_for_a_second(segment):
    library = Library()
    library.find(want(5), lambda: None, 0)
    library.finish(library.take_job(), segment(5, 5, at_end=True, at_ns=7))
    assert library.find(want(5), lambda: None, 8).at_end
    assert library.find(want(5), lambda: None, 7 + RETRY_NS) is None


def test_what_is_kept_stays_inside_its_bound(segment):
    library = Library(kept_bytes_max=20_000)
    for seq in range(0, 100, 5):
        library.find(want(seq), lambda: None, 0)
        library.finish(library.take_job(), segment(seq, seq + 5))
        assert library._kept_bytes == sum(s.nbytes for s in library._kept.values()) <= 20_000
    assert library.find(want(95), lambda: None, 0) is not None
    assert library.find(want(0), lambda: None, 0) is None


def test_the_past_of_a_replaced_tape_is_forgotten(segment):
    library = Library()
    library.find(want(5), lambda: None, 0)
    library.finish(library.take_job(), segment(5, 9))
    library.forget(NAME)
    assert library._kept_bytes == 0
    assert library.find(want(5), lambda: None, 0) is None


def test_a_time_is_wanted_as_such_and_its_segment_serves_places_too(segment):
    library, by_time = Library(), Want(NAME, "id-1", Start("time", value=7))
    assert library.find(by_time, lambda: None, 0) is None
    library.finish(library.take_job(), segment(3, 6))
    assert library.find(by_time, lambda: None, 0) is library.find(want(4), lambda: None, 0)
