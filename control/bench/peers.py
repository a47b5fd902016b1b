"""Other people's order books on the same records, in an environment of their own.

`make peers` installs them apart from us, since they want other versions of the same libraries. A peer is a child
process that speaks the protocol of `infra/peers/protocol.py`: it reads the stream from files, makes its own objects of
it untimed, and runs once whenever it is told to, so that its runs lie between ours. It times itself in process CPU
time, in several ways of driving it; the fastest one counts.
"""

import json
import os
import subprocess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Timer
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from control.bench.measure import Figure, Skip
from control.bench.oracle import WrongAnswerError
from control.bench.synthetic import Stream

_ROOT: Final = Path(__file__).parent.parent.parent
ENVIRONMENT: Final = _ROOT / ".venv-peers"
_SCRIPTS: Final = _ROOT / "infra" / "peers"

ANSWER_SECONDS_MAX: Final = 300.0
"""An answer takes a few seconds to a minute, the first one the making of a million objects; a peer that hangs would
hold the bench for ever."""


_WAYS: Final = 2
"""Ways of driving a peer that are run in every turn; each costs seconds."""


def default_python(folder: Path | None) -> Path:
    """The interpreter of the peers' environment: in the folder given, or where `make peers` puts it."""
    return (folder or ENVIRONMENT) / "bin" / "python"


class Peer:
    """A peer's process for one stream; leaves with the `with` block.

    Args:
        name: its script is `infra/peers/NAME_l3.py`.
        python: interpreter of the peers' environment.
        stream: what it shall apply.

    Raises:
        Skip: it is not installed, or left.
    """

    def __init__(self, name: str, python: Path, stream: Stream) -> None:
        script = _SCRIPTS / f"{name}_l3.py"
        if not python.exists() or not script.exists():
            raise Skip(f"peer_{name}_l3 is not installed; `make peers` does it")
        self.name = name
        self.seconds: dict[str, list[float]] = {}
        self._folder = TemporaryDirectory(prefix="barograph-peer-")
        self._errors = TemporaryFile("w+")  # noqa: SIM115  (closed by __exit__)
        folder = Path(self._folder.name)
        np.save(folder / "opening.npy", stream.opening)
        np.save(folder / "records.npy", stream.records)
        (folder / "stream.json").write_text(json.dumps({"tick_px": stream.tick_px}))
        self._process = subprocess.Popen(
            [str(python), str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))},
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            self.hello: dict[str, str] = self._answer()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()

    def run(self) -> float:
        """One run in each of its ways the first time, later in the two that were fastest then.

        Returns:
            Seconds of the fastest one; all are kept in `seconds`.
        """
        chosen = sorted(self.seconds, key=lambda v: self.seconds[v][0])[:_WAYS]
        taken: dict[str, float] = self._ask(" ".join(["run", *chosen]))["seconds"]
        for variant, seconds in taken.items():
            self.seconds.setdefault(variant, []).append(seconds)
        return min(taken.values())

    def best(self) -> tuple[str, Figure]:
        """The way that was fastest by its median, and its samples, without the first one."""
        medians = self.medians()
        variant = min((v for v in medians if len(self.seconds[v]) > 1), key=lambda v: medians[v])
        return variant, Figure(tuple(self.seconds[variant][1:]))

    def medians(self) -> dict[str, float]:
        """Median seconds of each way, without the first run where there are more."""
        return {variant: median(seconds[1:] or seconds) for variant, seconds in self.seconds.items()}

    def check(self, levels: dict[str, list[tuple[int, int, int]]]) -> None:
        """Compare its levels after the last run with the true ones, price and lots.

        Raises:
            WrongAnswerError: they differ, so the two did not do the same work.
        """
        book = self._ask("book")
        for side, true in levels.items():
            if [tuple(level) for level in book[side]] != [(px, lots) for px, lots, _ in true]:
                raise WrongAnswerError(f"peer_{self.name}_l3", f"its {side} are not those of the slow book")

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = Timer(ANSWER_SECONDS_MAX, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._gone()
        return dict(json.loads(line))

    def _gone(self) -> Skip:
        """Why it left, by the last line that it wrote."""
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return Skip(f"peer_{self.name}_l3 left with code {self._process.returncode}: {lines[-1] if lines else 'mute'}")

    def _leave(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._folder.cleanup()
