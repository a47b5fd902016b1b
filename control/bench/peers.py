"""Other people's order books on the same records, in an environment of their own."""

from pathlib import Path

ENVIRONMENT = Path(__file__).parent.parent.parent / ".venv-peers"


def default_python(folder: Path | None) -> Path:
    """The interpreter of the peers' environment: in the folder given, or where `make peers` puts it."""
    return (folder or ENVIRONMENT) / "bin" / "python"
