"""Documentation that cannot fall behind: generated pages are compared, dependencies and decisions are complete."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from control.docgen import PAGES
from runtime import telemetry
from schemas.envelope import Envelope
from schemas.topics import CATALOGUE
from ws_gateway import metrics

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run `make docs`"


def test_every_dependency_says_why() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + project["optional-dependencies"]["dev"]
    page = (ROOT / "docs/dependencies.md").read_text()
    missing = [n for n in (re.split(r"[><=\[ ]", d)[0] for d in named) if f"`{n}`" not in page]
    assert not missing


def test_every_topic_is_in_the_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert [s.stream for s in CATALOGUE if s.name("T", "L") not in page] == []


def test_every_metric_and_header_is_in_operations() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    told = [m for module in (telemetry, metrics) for m in vars(module).values() if isinstance(m, MetricWrapperBase)]
    names = [family.name + "_total" * (family.type == "counter") for metric in told for family in metric.describe()]
    assert len(names) > 10
    names += [field.name for field in fields(Envelope) if field.name != "other"]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_decisions_are_numbered_without_holes() -> None:
    numbers = sorted(int(p.name[:4]) for p in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_pages_have_one_title() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        outside_code = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert len(re.findall(r"^# ", outside_code, flags=re.MULTILINE)) == 1, page
