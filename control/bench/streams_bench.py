"""Bench `streams`: what a stage does with a backlog, with a live feed, after a kill, and when nothing happens."""

from typing import Final

from control.bench.session import Case
from control.bench.streams_backlog import BLOCKS, bins_emitted, stage

CASES: Final = (
    *(
        Case(f"stage_{block}", (f"stage_{block}", f"stage_{block}_vs_loop", f"stage_{block}_silence"), stage(block))
        for block in BLOCKS
    ),
    Case("bins_emitted", ("bins_emitted",), bins_emitted),
)
