"""Bench `streams`: what a stage does with a backlog, with a live feed, after a kill, and when little happens."""

from typing import Final

from control.bench.engine_runs import TAPES
from control.bench.session import Case
from control.bench.streams_backlog import BLOCKS, bins_emitted, stage
from control.bench.streams_life import idle_cost, resume_after_kill
from control.bench.streams_live import tick_to_bin
from control.bench.streams_runs import run_tape

CASES: Final = (
    *(
        Case(
            f"stage_{block}",
            (f"stage_{block}", f"stage_{block}_vs_loop", f"stage_{block}_silence"),
            stage(block),
            alone=False,
        )
        for block in BLOCKS
    ),
    Case("bins_emitted", ("bins_emitted",), bins_emitted, alone=False),
    Case("tick_to_bin", ("tick_to_bin_p50", "tick_to_bin_p99", "tick_to_bin_p999"), tick_to_bin, alone=False),
    Case(
        "resume_after_kill",
        ("resume_after_kill_p50", "resume_after_kill_max", "resume_beyond_start"),
        resume_after_kill,
        alone=False,
    ),
    Case("idle_cost", ("idle_cost", "bin_close_max"), idle_cost, alone=False),
    *(Case(f"run_{name}", (f"run_{name}",), run_tape(name)) for name in TAPES),
)
