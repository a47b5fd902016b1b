"""Bench `engine`: what a record, a bin, a call and a start cost, in the engine alone."""

from typing import Final

from control.bench.engine_bins import bins_per_s, gold
from control.bench.engine_book import PEER_GATES, against, book_l3, book_l3_deep, book_physics, tape
from control.bench.engine_calls import call_64, call_64_book, start_warm
from control.bench.engine_grid import grid
from control.bench.engine_runs import TAPES
from control.bench.engine_sweeps import INSTRUMENTS, SWEEP_ORDERS, SWEEP_QUEUE, instruments, sweep_orders, sweep_queue
from control.bench.session import Case

CASES: Final = (
    Case("book_l3", ("book_l3",), book_l3),
    *(Case(f"book_l3_vs_{name}", (f"book_l3_vs_{name}",), against(name)) for name in PEER_GATES),
    Case("book_l3_deep", ("book_l3_deep",), book_l3_deep),
    Case("book_physics", ("book_physics",), book_physics),
    Case("sweep_orders", tuple(f"sweep_orders_{n}" for n in SWEEP_ORDERS), sweep_orders),
    Case("sweep_queue", tuple(f"sweep_queue_{n}" for n in SWEEP_QUEUE), sweep_queue),
    Case("instruments", tuple(f"instruments_{n}" for n in INSTRUMENTS), instruments),
    Case("bins_per_s", ("bins_per_s",), bins_per_s),
    Case("gold", ("gold",), gold),
    Case("call_64", ("call_64_p50", "call_64_p99"), call_64),
    Case("call_64_book", ("call_64_book_p50", "call_64_book_p99"), call_64_book),
    Case("start_warm", ("start_warm",), start_warm),
    *(Case(f"book_physics_{name}", (f"book_physics_{name}",), tape(name)) for name in TAPES),
    *(Case(f"grid_{name}", (f"grid_{name}", f"grid_{name}_engine"), grid(name)) for name in TAPES),
)
