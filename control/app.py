"""The command line as a tree of verbs. Each module of `control.commands` adds its own; `control.cli` runs it."""

import typer

from control.commands import (
    bench,
    certify,
    dead_letters,
    files,
    keys,
    lag,
    operations,
    pipeline,
    processes,
    sql,
    tapes,
    watch,
)

app = typer.Typer(
    name="barograph",
    help="Records the pressure of order books: DBN files or live venues → Kafka → books → SQL, Parquet, live grid.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (pipeline, files, watch, processes, tapes, operations, keys, sql, lag, dead_letters, certify, bench):
    module.register(app)
