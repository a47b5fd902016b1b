"""Fixtures that every kind of test shares: real data, a real broker, settings in a folder of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent

settings.register_profile("barograph", deadline=None, print_blob=True)  # machines are shared: no test judges time
settings.load_profile("barograph")


def _required(what: str, remedy: str) -> None:
    """Skip loudly, or fail where CI promises that nothing is skipped."""
    text = f"{what}: {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real market data; never copied into the project."""
    path = Path(os.environ.get("BAROGRAPH_DATA", ROOT.parent / "shared" / "data")).resolve()
    if not path.is_dir():
        _required(f"no market data at {path}", "set BAROGRAPH_DATA to the folder")
    return path


@pytest.fixture(scope="session")
def esh4(data_dir: Path) -> Path:
    """CME ES future, whole of 25 Dec 2023, 68,792 records."""
    return data_dir / "dbn" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"


@pytest.fixture(scope="session")
def aapl(data_dir: Path) -> Path:
    """AAPL, one hour of 21 Jun 2012, 100,176 records derived from LOBSTER."""
    return data_dir / "derived" / "AAPL_20120621_lobster50.mbo.dbn.zst"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of one embedded broker for the whole session."""
    from control.embedded.kafka import EmbeddedKafka

    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), retention_check_ms=1000) as broker:
        yield broker.bootstrap_servers
