"""Partitions and block size of a tape: chosen when it is made, refused when another is asked for later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors import simulate
from control import pipeline
from control.output import Output
from control.pipeline import RunRequest, prepare
from runtime.errors import InputError
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore

PARTITIONS, BLOCK = 4, 50


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., RunRequest]:
    simulate.write(tmp_path / "four.dbn", records=1_000, instruments=4, hours=0.01)
    return lambda **shape: RunRequest([tmp_path / "four.dbn"], tape="four", **shape)


def made(request: RunRequest, settings: Settings) -> Manifest:
    job = prepare(request, settings, Output(as_json=True))
    return pipeline._plan_tape(job, settings, Output(as_json=True))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def test_every_partition_of_a_new_tape_has_an_instrument(request_of: Any, settings: Settings) -> None:
    manifest = made(request_of(partitions=PARTITIONS, block_records=BLOCK), settings)
    assert manifest.partitions == len(manifest.base) == PARTITIONS
    assert {i.partition for i in manifest.instruments.values()} == set(range(PARTITIONS))
    assert manifest.blocking["records_max"] == BLOCK


def test_without_a_word_the_settings_count(request_of: Any, settings: Settings) -> None:
    assert made(request_of(), settings).partitions == 1
    assert made(request_of(), settings.model_copy(update={"partitions": 2})).partitions == 2


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"partitions": 2}, "made with 4 partitions, not 2"),
        ({"block_records": 7}, "made with 50 records in a block, not 7"),
    ],
)
def test_another_shape_is_refused(request_of: Any, settings: Settings, shape: dict[str, int], said: str) -> None:
    manifest = made(request_of(partitions=PARTITIONS, block_records=BLOCK), settings)
    TapeStore(LocalObjectStore(settings.state_dir)).save(manifest)
    prepare(request_of(partitions=PARTITIONS, block_records=BLOCK), settings, Output(as_json=True))
    prepare(request_of(), settings, Output(as_json=True))
    with pytest.raises(InputError, match=said):
        prepare(request_of(**shape), settings, Output(as_json=True))
