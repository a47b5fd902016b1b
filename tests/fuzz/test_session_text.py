"""Strangers at the session's text parser; `make fuzz` sends them for an hour."""

import os

import pytest

from tests.fuzz.session_text import run

COUNT = 400


@pytest.mark.parametrize("part", range(4))
def test_no_text_breaks_a_promise(part):
    assert run(part * 1_000_000, COUNT) == COUNT


@pytest.mark.long
@pytest.mark.timeout(8_000)
def test_no_text_breaks_a_promise_for_long():
    assert run(10**9, seconds=float(os.environ.get("FUZZ_SECONDS", "3600"))) > 10_000
