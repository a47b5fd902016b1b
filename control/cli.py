"""Entry point of the `barograph` command: signals, exit codes, errors as one sentence.

Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 a service is missing, 130 stopped by Ctrl-C or SIGTERM.
An expected failure is one sentence on standard error; anything with a traceback is a fault of the program.

Everything else is imported inside `main`, so that a Ctrl-C in the first second is answered like any other.
"""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line and leave with its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        sys.exit(_run())
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        sys.stderr.write("\n")
        sys.exit(130)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of an error: Python wraps it where it strikes while a class is being made.

    A chain may be a ring: Faust raises what crashed a worker again as its own cause.
    """
    seen: list[BaseException] = []
    while error is not None and not any(error is known for known in seen):
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.append(error)
        error = error.__cause__
    return False


def _run() -> int:
    from typer.exceptions import TyperException

    from control import options
    from control.app import app
    from control.output import show_error
    from runtime.errors import BarographError, InputError, UsageError
    from runtime.telemetry import configure_logging

    try:
        settings = options.settings()
        configure_logging(settings.log_level)
        if settings.registry_url:
            _look_in(settings.registry_url)
        return int(app(standalone_mode=False) or 0)
    except BarographError as error:
        show_error(error, "--json" in sys.argv)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        place = InputError(
            f"{error.filename}: {(error.strerror or 'cannot be used').lower()}", remedy="give another path"
        )
        show_error(place, "--json" in sys.argv)
        return place.exit_code
    except TyperException as error:
        usage = UsageError(error.format_message().removesuffix("."), remedy="see barograph --help")
        show_error(usage, "--json" in sys.argv)
        return usage.exit_code


def _look_in(registry_url: str) -> None:
    from runtime.avro_schemas import look_in
    from runtime.registry_client import RegistryClient

    look_in(RegistryClient(registry_url).schema)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Ctrl-C from a person and SIGTERM from a program: the same orderly way out, and only once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
