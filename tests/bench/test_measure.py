"""From samples to rows to verdicts."""

from itertools import count

import pytest

from control.bench import report
from control.bench.calibration import LOAD_QUIET_NS, TOUCH_QUIET_NS, Calibration, slowdown
from control.bench.measure import Bound, Figure, Row, Skip, cpu, interleave
from control.bench.session import Case, Session, run
from control.output import Output


def test_what_is_compared_runs_in_turns() -> None:
    order: list[str] = []
    seconds = count(1)

    def timed(name: str) -> float:
        order.append(name)
        return float(next(seconds))

    ours, base = interleave(3, [lambda: timed("ours"), lambda: timed("base")])
    assert order == ["ours", "base"] * 4
    assert ours.samples == (3.0, 5.0, 7.0), "the first turn counts for nothing"
    assert base.value == 6.0
    assert len(interleave(2, [lambda: 1.0], warm_up=False)[0].samples) == 2


def test_time_is_of_this_process() -> None:
    with cpu() as watch:
        total = sum(range(300_000))
    assert total > 0
    assert 0 < watch.seconds < 10


def test_units() -> None:
    figure = Figure((0.5, 0.25, 1.0))
    assert figure.per_second(1000).samples == (2000.0, 4000.0, 1000.0)
    assert figure.per_second(1000).value == 2000.0
    assert figure.times(1e6).value == 500_000.0


@pytest.mark.parametrize(
    ("inverse", "gate", "ratio", "met"),
    [
        (False, Bound(">=", 4.0), 4.0, True),
        (False, Bound(">=", 4.1), 4.0, False),
        (False, Bound("<=", 2.5), 4.0, False),
        (True, Bound(">=", 0.25), 0.25, True),
    ],
)
def test_ratio_and_gate(inverse: bool, gate: Bound, ratio: float, met: bool) -> None:
    row = Row("r", Figure((8.0,)), "x/s", "base", Figure((2.0,)), inverse=inverse, gate=gate, aim=Bound("<=", 7.0))
    told = row.document(judged=True)
    assert told["ratio"] == ratio
    assert told["ratio_of"] == ("baseline / value" if inverse else "value / baseline")
    assert told["gate_met"] is met
    assert told["aim_met"] is False
    assert told["judged"] is True
    assert (told["value"], told["baseline_value"], told["min"], told["max"]) == (8.0, 2.0, 8.0, 8.0)


def test_a_row_without_baseline_has_no_verdict() -> None:
    told = Row("r", Figure((1.0,)), "s").document(judged=True)
    assert told["ratio"] is told["gate"] is told["gate_met"] is told["aim_met"] is told["baseline_value"] is None


def test_noise_is_the_worse_kernel() -> None:
    assert slowdown([], []) == 1.0
    assert slowdown([TOUCH_QUIET_NS], [LOAD_QUIET_NS * 3]) == 3.0
    calm = Calibration()
    calm.touch_ns, calm.load_ns = [TOUCH_QUIET_NS * 1.4], [LOAD_QUIET_NS * 0.5]
    assert not calm.noisy
    calm.touch_ns.append(TOUCH_QUIET_NS * 2)
    assert calm.noisy
    assert calm.document(2)["touch_ns_max"] == TOUCH_QUIET_NS * 2


def test_both_kernels_take_time() -> None:
    calibration = Calibration()
    calibration.sample()
    assert calibration.touch_ns[0] > 0
    assert calibration.load_ns[0] > 0


def _session() -> Session:
    from pathlib import Path

    return Session(runs=1, quick=False, market_data=None, peers=Path("nowhere"))


def _no(_: Session) -> list[Row]:
    raise Skip("not here")


GATED = Row("good", Figure((1.0,)), "x/s", "base", Figure((1.0,)), gate=Bound(">=", 2.0))


@pytest.mark.parametrize(("factor", "judged"), [(1.0, True), (5.0, False)])
def test_what_cannot_be_measured_is_told(monkeypatch: pytest.MonkeyPatch, factor: float, judged: bool) -> None:
    def sample(self: Calibration) -> None:
        self.touch_ns.append(TOUCH_QUIET_NS * factor)
        self.load_ns.append(LOAD_QUIET_NS)

    monkeypatch.setattr(Calibration, "sample", sample)
    cases = [Case("a", ("a_1", "a_2"), _no), Case("b", ("good", "gone"), lambda _: [GATED])]
    seen: list[tuple[int, int]] = []
    outcome = run(cases, _session(), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    result = report.document("test", outcome, runs=1, quick=False)
    assert result["noisy"] is not judged
    assert [(row["row"], row["gate_met"], row["judged"]) for row in result["rows"]] == [("good", False, judged)]
    assert [s["row"] for s in result["skipped"]] == ["a_1", "a_2", "gone"]
    assert report.document("test", outcome, runs=1, quick=True)["rows"][0]["judged"] is False


def test_the_table_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run([Case("b", ("good",), lambda _: [GATED]), Case("a", ("a_1",), _no)], _session(), lambda *_: None)
    result = report.document("test", outcome, runs=1, quick=False)
    report.show(Output(as_json=False).console, result)
    shown = capsys.readouterr().out
    assert ">= 2 missed" in shown
    assert "skipped a_1: not here" in shown


def test_cases_are_chosen_by_name_or_row() -> None:
    case = Case("call", ("call_p50", "call_p99"), _no)
    assert [case.wanted(names) for names in ([], ["call"], ["call_p99"], ["other"])] == [True, True, True, False]
