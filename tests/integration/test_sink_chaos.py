"""The faults of the sinks in short form: one tape, under load, each fault once; then everything is there once.

`make chaos-sinks` is the long form, with the same course and the same checks.
"""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.chaos import sink_faults as faults
from tests.integration.chaos.sink_faults import Fault, Outcome
from tests.unit.sinks.s3 import S3Server

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

IN_TURN = (
    partial(faults.kill, part="clickhouse"),
    faults.keep_answers,
    faults.exceed_window,
    faults.kill_in_upload,
    partial(faults.kill_store, down_s=3.0),
)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = S3Server()
    yield made
    made.stop()


def test_nothing_is_lost_or_doubled(kafka: str, server: S3Server, tmp_path: Path) -> None:
    fault = Fault("in turn", faults.in_turn(*IN_TURN), bucket=True, rate=5_000)
    made = faults.run(Outcome(fault.name, len(IN_TURN)), fault, kafka, tmp_path, tape="sinks-short", server=server)
    assert made.good, made.figures()
    assert made.kept
