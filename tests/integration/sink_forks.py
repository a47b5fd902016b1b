"""Lake sinks as processes that can be killed: a parent that has imported everything forks one for each line it reads.

A fork is ready within milliseconds, so kills fall on the work and not on the imports. Each line of standard input is a
JSON object; the pid of the fork is the answer. The parent itself never talks to a broker, so forks start clean.
"""

import json
import os
import resource
import sys
import threading
from pathlib import Path

from runtime.object_store import LocalObjectStore, object_store_at
from runtime.tapes import manifest_from_json
from sinks.batcher import Limits
from sinks.lake import LakeSink
from sinks.runner import SinkReport, SinkRunner


def serve(order: dict) -> None:
    """Run a sink with small batches until its tape has drained."""
    if order["file_bytes"]:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], hard))
    manifest, stop = manifest_from_json(order["manifest"]), threading.Event()
    lake, state = object_store_at(order["lake"]), LocalObjectStore(Path(order["state"]))
    progress = None if isinstance(lake, LocalObjectStore) else lake

    def tell(report: SinkReport) -> None:
        if report.drained({name: i.partition for name, i in manifest.instruments.items()}):
            stop.set()

    sink = LakeSink(lake, Limits(rows=order["rows"], bytes=1 << 20, age_s=0.05))
    SinkRunner(sink, manifest, "main", order["servers"], state, progress=progress, ahead=True).run(stop, tell)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                serve(json.loads(line))
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
