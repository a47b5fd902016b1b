"""The one policy by which kernels are compiled.

- No fast-math: it lets the compiler reorder sums and fuse multiply-adds, and results would depend on the processor.
- `nogil`: a worker applies records in a thread while its event loop goes on.
- Cached on disk in `__pycache__`, or in `NUMBA_CACHE_DIR`; compiling takes about half a minute, loading well under a
  second. numba keys a cached kernel by the source file of that kernel alone and would go on using old machine code
  after an edit of a kernel that it calls (numba issue 6061). And it writes the index before the data, under names that
  are used again after an edit, so that a second process can read old data under a new index (kin of numba issue
  4807). Both are avoided by putting a hash of all the sources that kernels are made of into the name of every cached
  file: a name then never changes its meaning, files appear by atomic rename, and whoever finds none compiles.
"""

import pkgutil
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

_SCHEMAS: Final = ("bins", "columns", "gold", "mbo", "mbp10", "trades", "units")
"""Modules of `schemas` whose layouts and constants are compiled into kernels."""


def _source_hash() -> str:
    """Hash over the sources of every module that kernels are made of, 16 hex digits."""
    import engine

    digest = sha256()
    modules = [("engine", m.name) for m in pkgutil.iter_modules(engine.__path__)] + [("schemas", n) for n in _SCHEMAS]
    for package, name in sorted(modules):
        digest.update(f"{package}.{name}\0".encode())
        digest.update(pkgutil.get_data(package, f"{name}.py") or b"")
    return digest.hexdigest()[:16]


SOURCE_HASH: Final = _source_hash()


def _name_cache_by_sources(dispatcher: Any) -> None:  # pragma: no cover  # only where something is compiled
    """Give the dispatcher's cache files a name that holds the hash of all sources."""
    cache = dispatcher._cache
    index = type(cache._cache_file)
    cache._cache_file = index(
        cache_path=cache._cache_path,
        filename_base=f"{cache._impl.filename_base}-{SOURCE_HASH}",
        source_stamp=SOURCE_HASH,
    )


def _compiled(fn: Callable[P, R], inline: bool) -> Callable[P, R]:
    dispatcher = njit(nogil=True, fastmath=False, cache=True, error_model="numpy", forceinline=inline)(fn)
    if hasattr(getattr(dispatcher, "_cache", None), "_cache_file"):  # pragma: no cover  # not with NUMBA_DISABLE_JIT
        _name_cache_by_sources(dispatcher)
    return cast("Callable[P, R]", dispatcher)


def kernel(fn: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of arrays and scalars with the policy above.

    Args:
        fn: Function in the subset of Python that numba compiles in nopython mode; it is compiled at its first call.

    Returns:
        The compiled function, whose static type stays that of `fn`; `fn` itself where NUMBA_DISABLE_JIT is set.
    """
    return _compiled(fn, inline=False)


def inlined(fn: Callable[P, R]) -> Callable[P, R]:
    """Compile a kernel that becomes part of every kernel that calls it: for the path that every record takes.

    A call between kernels passes its result through memory and tests for an error, which is a fifth of the time of a
    record on that path; elsewhere it costs nothing that matters, and inlining would cost time of compilation.

    Args:
        fn: As for `kernel`.

    Returns:
        As from `kernel`; called from Python it does the same.
    """
    return _compiled(fn, inline=True)


i64: Final = cast("Callable[[Any], int]", np.int64)
"""To a signed 64-bit integer, inside kernels. Every narrow or unsigned field goes through it before arithmetic: numba
gives float64 for signed with unsigned 64 bit, as NumPy does."""
