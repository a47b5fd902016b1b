"""The protocol with peers, spoken by a small book of our own; and what happens without them."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from control.bench import peers
from control.bench.measure import Skip
from control.bench.oracle import WrongAnswerError, book_of
from control.bench.peers import Peer, default_python
from control.bench.synthetic import Shape, make

ROOT = Path(__file__).parent.parent.parent
STREAM = make(Shape(2_000, levels=3, queue=4, per_bin=100, churn=100))
SCRIPT = """
import sys
sys.path.insert(0, {scripts!r})
from protocol import load, serve, sizes_left, timed
import numpy as np

opening, records, told = load()
records = np.concatenate([opening, records])
left = sizes_left(records)
levels = {{}}

def run(bonus):
    orders = {{}}
    def work():
        for record, rest in zip(records, left):
            if record["action"] in b"ACM":
                orders.pop(int(record["order_id"]), None)
                if rest:
                    orders[int(record["order_id"])] = (record["side"], int(record["price"]), rest)
    taken = timed(work)
    levels.clear()
    for side, px, lots in orders.values():
        levels.setdefault(side, {{}})[px] = levels.setdefault(side, {{}}).get(px, 0) + lots
    return bonus if bonus < 1 else taken + bonus

variants = {{name: lambda n=n: run(n) for name, n in (("slow", 1), ("fast", 0.5), ("slower", 2))}}

def book():
    bids, asks = (sorted(levels[s].items(), reverse=s == b"B") for s in (b"B", b"A"))
    return {{"bids": bids, "asks": asks}}

serve({{"peer": "own", "version": "1", "excluded": ""}}, variants, book)
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peers, "_SCRIPTS", tmp_path)
    (tmp_path / "own_l3.py").write_text(SCRIPT.format(scripts=str(ROOT / "infra" / "peers")))
    return tmp_path


def test_a_peer_runs_when_told_and_must_be_right(scripts: Path) -> None:
    book = book_of([STREAM.opening, STREAM.records])
    true = {"bids": book.levels(b"B"), "asks": book.levels(b"A")}
    with Peer("own", Path(sys.executable), STREAM) as peer:
        assert peer.hello["peer"] == "own"
        assert [peer.run() for _ in range(3)] == [0.5, 0.5, 0.5]
        peer.check(true)
        variant, figure = peer.best()
        assert (variant, figure.samples) == ("fast", (0.5, 0.5)), "the first run counts for nothing"
        assert {v: len(s) for v, s in peer.seconds.items()} == {"slow": 3, "fast": 3, "slower": 1}
        with pytest.raises(WrongAnswerError):
            peer.check({"bids": true["asks"]})


def test_a_peer_that_fails_is_skipped_with_its_reason(scripts: Path) -> None:
    (scripts / "broken_l3.py").write_text("raise RuntimeError('no such book')")
    with pytest.raises(Skip, match="no such book"), Peer("broken", Path(sys.executable), STREAM):
        pass


def test_a_peer_that_is_not_installed_is_skipped_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(Skip, match="make peers"):
        Peer("nautilus", default_python(tmp_path), STREAM)


def test_peers_are_locked_and_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[><=\[ ]", d)[0] for d in project["optional-dependencies"]["peers"]]
    locked = (ROOT / "infra/peers/requirements.lock").read_text()
    page = (ROOT / "docs/dependencies.md").read_text()
    assert names
    assert [n for n in names if f"\n{n}==" not in locked or f"`{n}`" not in page] == []
