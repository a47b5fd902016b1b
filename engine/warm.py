"""Compile every kernel once, so that the first record of a process does not wait half a minute.

An installation runs `python -m control.warm`; the machine code then lies in numba's cache beside the sources. Processes
that start at once without it each compile for themselves and write equal files, see `_jit`.
"""

import numpy as np

from engine.engine import Engine, EngineConfig
from engine.gold import Gold, GoldConfig
from schemas import mbo

_SECOND_NS = 1_000_000_000


def warm() -> None:
    """Run every kernel on a few records."""
    records = np.zeros(2, mbo.MBO_DTYPE)
    records["length"], records["rtype"] = mbo.MBO_BYTES // 4, mbo.MBO_RTYPE
    records["ts_event"] = records["ts_recv"] = _SECOND_NS
    records["order_id"] = (1, 2)
    records["price"] = (_SECOND_NS, 2 * _SECOND_NS)
    records["size"], records["flags"], records["action"] = 1, mbo.F_LAST, b"A"
    records["side"] = (b"B", b"A")
    engine = Engine(EngineConfig(tick_px=_SECOND_NS, mbp10=True))
    engine.apply(records)
    engine.advance(2 * _SECOND_NS)
    output, _ = engine.flush()
    engine.mark_suspect()
    engine.queue_position(1)
    engine.levels("B")
    engine.digest()
    engine._memory.grow()
    Engine.restore(engine.snapshot())
    gold = Gold(GoldConfig(), engine.config.cell_ns, engine.config.tick_px, engine.config.radius)
    gold.apply(output.bins)
    Gold.restore(gold.snapshot())
