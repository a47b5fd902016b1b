"""The stages that exist, by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from streams.build_bars import bars_stage
from streams.build_books import books_stage
from streams.reducer import Stage

STAGES: Final[Mapping[str, Callable[[Mapping[str, Any]], Stage]]] = {
    "books": books_stage,
    "bars": bars_stage,
}
"""Stage name → maker of the stage from a line's configuration, each after the one whose topic it reads."""
