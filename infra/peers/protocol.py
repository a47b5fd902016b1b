"""What every peer's script does the same way: read a stream, obey lines on standard input, answer in JSON.

    PYTHON SCRIPT FOLDER     FOLDER holds opening.npy and records.npy (DBN MBO records) and stream.json
    < run [VARIANT ...]      > {"seconds": {variant: process CPU seconds of the measured records alone}}, default: all
    < book                   > {"bids": [[price in 1e-9, lots], ...], "asks": [...]}, best first, after the last run

The first line out is {"peer", "version", "excluded"}. Runs on the peers' interpreter, without anything of barograph.
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

UNDEF_SIZE = (1 << 32) - 1


def load() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Opening records, measured records, and what stream.json tells: tick_px."""
    folder = Path(sys.argv[1])
    told = json.loads((folder / "stream.json").read_text())
    return np.load(folder / "opening.npy"), np.load(folder / "records.npy"), told


def sizes_left(records: np.ndarray) -> list[int]:
    """Per record, the size that its order has after it; for peers whose cancel takes the whole order only."""
    left: dict[int, int] = {}
    out = []
    fields = (records[name].tolist() for name in ("action", "order_id", "size"))
    for action, order_id, size in zip(*fields, strict=True):
        if action in (b"A", b"M"):
            left[order_id] = size
        elif action == b"C":
            left[order_id] = max(0, left[order_id] - size)
            if left[order_id] == 0:
                del left[order_id]
        out.append(left.get(order_id, 0))
    return out


def timed(work: Callable[[], object]) -> float:
    """Process CPU time of the work, s."""
    gc.collect()
    gc.disable()
    begin = process_time()
    work()
    taken = process_time() - begin
    gc.enable()
    return taken


def serve(hello: dict[str, str], variants: dict[str, Callable[[], float]], book: Callable[[], dict[str, Any]]) -> None:
    """Answer until standard input ends."""
    _say(hello)
    for line in sys.stdin:
        word, *names = line.split()
        _say({"seconds": {name: variants[name]() for name in names or variants}} if word == "run" else book())


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
