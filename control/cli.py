"""The command line: `barograph VERB`. Each module of `control.commands` adds its verbs; this one runs them.

Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 a service is missing, 130 stopped by Ctrl-C. An expected
failure is one sentence on standard error; anything with a traceback is a fault of the program.
"""

import logging
import os
import signal
import sys
from types import FrameType

import typer
from typer.exceptions import TyperException

from control.commands import files, operations, pipeline, processes, tapes
from control.output import show_error
from runtime.errors import BarographError
from runtime.settings import Settings
from runtime.telemetry import configure_logging

app = typer.Typer(
    name="barograph",
    help="Records the pressure of order books: DBN files or live venues → Kafka → books → SQL, Parquet, live grid.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (pipeline, files, processes, tapes, operations):
    module.register(app)


def main() -> None:
    """Entry point of the `barograph` command."""
    as_json = "--json" in sys.argv
    signal.signal(signal.SIGTERM, _stop)
    try:
        configure_logging(Settings().log_level)
        sys.exit(app(standalone_mode=False) or 0)
    except BarographError as error:
        show_error(error, as_json)
        sys.exit(error.exit_code)
    except TyperException as error:
        sys.stderr.write(f"barograph: {error.format_message()}; see barograph --help\n")
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        logging.getLogger(__name__).debug("stopped by the user", exc_info=True)
        sys.stderr.write("\n")
        sys.exit(130)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM is a Ctrl-C from a program: the same orderly way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
