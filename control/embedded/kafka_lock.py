"""The lock of the embedded broker: which jars make it up, and the hash of each.

`infra/kafka/lock.json` names the Kafka version and, per jar, its Maven coordinate, file name, size and sha256. Nothing
but this file decides what runs: no dependency is resolved at start, and no jar runs whose hash differs. It holds no
address; where to fetch from is jgo's own setting (Maven Central unless its configuration file names a mirror).

To renew it (a maintainer's work, needs the network): `python -m control.embedded.kafka_lock [VERSION]`; without a
version the newest release that is there in full is taken. Then run the tests marked `real`, and commit the file.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from runtime.errors import InputError, MissingServiceError

FILE: Final = "lock.json"

KAFKA: Final = ("org.apache.kafka", "kafka_2.13")
"""Group and artifact of the broker; its dependencies follow from it."""

CANDIDATES: Final = 3
"""How many releases are tried, newest first; a registry that lacks parts of three in a row is broken itself."""

SLF4J_BINDINGS: Final = {"1": "log4j-slf4j-impl", "2": "log4j-slf4j2-impl"}
"""Major version of slf4j-api → the artifact that joins it to log4j. Kafka's own set has none, and without it the broker
is silent even when it dies."""


@dataclass(frozen=True)
class Jar:
    """One jar: Maven coordinate `group:artifact:version[:classifier]`, file name, size in bytes, sha256 in hex."""

    coordinate: str
    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class KafkaLock:
    """Version of Kafka and the jars that make it up, sorted by coordinate."""

    version: str
    jars: tuple[Jar, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all jars together."""
        return sum(jar.size_bytes for jar in self.jars)


def infra_dir() -> Path:
    """Folder with the lock and the broker's logging set-up: in the wheel beside `control`, in a checkout above it."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "infra" / "kafka"
    return packed if packed.is_dir() else package.parent / "infra" / "kafka"


def read_lock(path: Path | None = None) -> KafkaLock:
    """The lock, checked for form.

    Args:
        path: another lock file than the one that comes with the software.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = path or infra_dir() / FILE
    try:
        content = json.loads(path.read_bytes())
        jars = tuple(Jar(**jar) for jar in content["jars"])
        lock = KafkaLock(str(content["version"]), jars)
        bad = [jar.file for jar in jars if not _is_well_formed(jar)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"the lock of the embedded broker, {path}, cannot be read ({error})", remedy="install the software again"
        ) from error
    if bad or not jars:
        raise InputError(f"the lock {path} has a bad entry: {bad[:1]}", remedy="install the software again")
    return lock


def _is_well_formed(jar: Jar) -> bool:
    plain_name = Path(jar.file).name == jar.file and jar.file.endswith(".jar")  # never a path out of the cache
    hexadecimal = len(jar.sha256) == 64 and set(jar.sha256) <= set("0123456789abcdef")
    return plain_name and hexadecimal and jar.size_bytes > 0 and jar.coordinate.count(":") in (2, 3)


def sha256_of(path: Path) -> str:
    """Sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve, fetch, hash and write the lock; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m control.embedded.kafka_lock", description="renew the lock")
    parser.add_argument("version", nargs="?", help="Kafka version; default: the newest release")
    parser.add_argument("--out", type=Path, default=infra_dir() / FILE, help="file to write")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kafka-lock-") as scratch:
        lock = make_lock(options.version, Path(scratch))
    content = {"version": lock.version, "jars": [asdict(jar) for jar in lock.jars]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"Kafka {lock.version}: {len(lock.jars)} jars, {lock.size_bytes / 1e6:.1f} MB\n")
    return 0


def make_lock(version: str | None, scratch: Path) -> KafkaLock:
    """Resolve Kafka and its dependencies, fetch every jar into `scratch` and hash it.

    Args:
        version: Kafka version; None: the newest release of which every jar can be had (a fresh one may lack some).
        scratch: folder for the files; left to the caller to delete.

    Raises:
        MissingServiceError: no version can be had.
    """
    from jgo.maven import MavenContext  # slow to import, and needed for this alone

    context = MavenContext(repo_cache=scratch)
    project = context.project(*KAFKA)
    if version is None:
        project.update()
    releases = [v for v in project.metadata.versions if re.fullmatch(r"[\d.]+", v)]
    candidates = [version] if version else sorted(releases, key=_numbers, reverse=True)[:CANDIDATES]
    reason: Exception | None = None
    for candidate in candidates:
        try:
            artifacts = list(_resolve(context, f"{':'.join(KAFKA)}:{candidate}"))
            with ThreadPoolExecutor(8) as pool:
                jars = sorted(pool.map(_fetched_jar, artifacts), key=lambda jar: jar.coordinate)
        except (OSError, RuntimeError) as error:
            reason = error
        else:
            return KafkaLock(candidate, tuple(jars))
    raise MissingServiceError(f"no version of Kafka among {candidates} can be had whole ({reason})")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]


def _resolve(context: Any, coordinate: str) -> Iterator[Any]:
    inputs, dependencies = context.resolver.resolve([context.create_dependency(coordinate)])
    versions: dict[str, str] = {}
    for dependency in [*inputs, *dependencies]:
        versions[dependency.artifactId] = dependency.version
        yield dependency.artifact
    binding = SLF4J_BINDINGS[versions["slf4j-api"].split(".")[0]]
    yield context.project("org.apache.logging.log4j", binding).at_version(versions["log4j-core"]).artifact()


def _fetched_jar(artifact: Any) -> Jar:
    path: Path = artifact.resolve()
    classifier = f":{artifact.classifier}" if artifact.classifier else ""
    coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}{classifier}"
    return Jar(coordinate, path.name, path.stat().st_size, sha256_of(path))


if __name__ == "__main__":
    sys.exit(main())
