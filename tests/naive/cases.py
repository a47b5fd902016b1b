"""What a sequence of records holds: the hard cases by name, so that tests can prove that random input reaches them."""

from schemas.units import UNDEF_PRICE, UNDEF_SIZE
from tests.naive.engine import F_BAD, F_LAST, F_MBP, F_PUBLISHER, F_SNAPSHOT, SNAPSHOT, VALID, tick_of

CASES = (
    "time: equal",
    "time: late",
    "time: future",
    "time: undefined",
    "time: at a bin's start",
    "time: new session",
    "add: duplicate",
    "add: re-used id",
    "cancel: part",
    "cancel: whole, by size 0 or UNDEF",
    "cancel: more than rests",
    "cancel: unknown id",
    "modify: price",
    "modify: side",
    "modify: larger",
    "modify: smaller",
    "modify: to nothing",
    "modify: unknown id",
    "fill: before cancel",
    "fill: before modify",
    "fill: more than rests",
    "fill: unknown id",
    "trade: buys",
    "trade: sells",
    "trade: neither",
    "clear: of orders",
    "snapshot: of a book that stood",
    "snapshot: with R",
    "snapshot: ended by F_LAST",
    "snapshot: ended by flow",
    "snapshot: ended by flush",
    "undefined price",
    "undefined side",
    "undefined size",
    "undefined action",
    "price: no multiple of the tick",
    "price: outside the window",
    "price: before there is a window",
    "book: crossed",
    "book: locked",
    "book: one side empty after both",
    "book: suspect",
    "view: F_MBP and flag 2",
    "view: fill pending at a bin end",
    "call: clock",
    "call: flush",
    "call: input was skipped",
    "bins: dense",
    "bins: active",
    "bins: heartbeat",
    "bins: many empty",
    "bins: buckets of ticks",
    "bins: window moved",
    "size: beyond the MBP-10 field",
)


def of_config(config):
    """Cases that a configuration makes."""
    yield f"bins: {config.emission}"
    if config.bucket > 1:
        yield "bins: buckets of ticks"


def of_call(naive, name):
    """Cases of a call that is no record, before it is made."""
    yield {"advance": "call: clock", "flush": "call: flush", "suspect": "call: input was skipped"}[name]
    if name == "flush" and naive.state == SNAPSHOT:
        yield "snapshot: ended by flush"


def of_record(naive, record, gone):
    """Cases of a record, before it is applied.

    Args:
        naive: the oracle.
        record: the record.
        gone: ids that rested once; grows with what rests now.
    """
    gone.update(naive.book.orders)
    yield from of_time(naive, record)
    flags, action = int(record["flags"]), record["action"].decode("latin1")
    if action not in "ACMFTRN":
        yield "undefined action"
    if flags & F_SNAPSHOT:
        if naive.state != SNAPSHOT and naive.book.orders:
            yield "snapshot: of a book that stood"
        if action == "R":
            yield "snapshot: with R"
        if flags & F_LAST and not flags & F_BAD:
            yield "snapshot: ended by F_LAST"
    elif naive.state == SNAPSHOT:
        yield "snapshot: ended by flow"
    if action == "R" and not flags & F_SNAPSHOT and naive.book.orders:
        yield "clear: of orders"
    if flags & F_BAD and naive.state == VALID:
        yield "book: suspect"
    if action == "T":
        yield {b"B": "trade: buys", b"A": "trade: sells"}.get(bytes(record["side"]), "trade: neither")
    if action in "ACMF":
        yield from of_order(naive, record, action, gone)


def of_time(naive, record):
    """Cases of the record's own time."""
    own, bad = naive.own_time(record)
    if own is None:
        yield "time: undefined"
    elif naive.t is not None:
        if own == naive.t:
            yield "time: equal"
        if own < naive.t:
            yield "time: late"
        if own > naive.t and own % naive.config.cell_ns == 0:
            yield "time: at a bin's start"
        if own - naive.t > 7 * 86_400 * 10**9:
            yield "time: new session"
    if bad and own is not None:
        yield "time: future"


def of_order(naive, record, action, gone):
    """Cases of an A, C, M or F."""
    order_id, px, size = int(record["order_id"]), int(record["price"]), int(record["size"])
    order, nothing = naive.book.orders.get(order_id), size in (0, UNDEF_SIZE)
    if record["flags"] & F_MBP and record["flags"] & F_PUBLISHER:
        yield "view: F_MBP and flag 2"
    if action in "AM":
        skipped = why_skipped(record, nothing and (action == "A" or order is None))
        if skipped:
            yield skipped
            return
        yield from of_price(naive, px)
    if action == "A" and order is not None:
        yield "add: duplicate"
    elif action == "A" and order_id in gone:
        yield "add: re-used id"
    elif action != "A" and order is None:
        yield {"C": "cancel: unknown id", "M": "modify: unknown id", "F": "fill: unknown id"}[action]
    elif action == "C":
        yield from of_cancel(order, size, nothing)
    elif action == "M":
        yield from of_modify(order, record["side"].decode(), px, size, nothing)
    elif action == "F" and not nothing and size + order.pending > order.size:
        yield "fill: more than rests"


def why_skipped(record, nothing_new):
    """Why an A or M is skipped; None if it is applied."""
    if int(record["price"]) == UNDEF_PRICE:
        return "undefined price"
    if record["side"] not in (b"A", b"B"):
        return "undefined side"
    return "undefined size" if nothing_new else None


def of_price(naive, px):
    """Cases of the price of an order that is applied."""
    if px % naive.config.tick_px:
        yield "price: no multiple of the tick"
    if naive.physics.centre is None:
        yield "price: before there is a window"
    elif not naive.physics.inside(tick_of(px, naive.unit)):
        yield "price: outside the window"


def of_cancel(order, size, nothing):
    """Cases of a cancel of an order that rests."""
    if nothing:
        yield "cancel: whole, by size 0 or UNDEF"
    elif size < order.size:
        yield "cancel: part"
    elif size > order.size:
        yield "cancel: more than rests"
    if order.pending:
        yield "fill: before cancel"


def of_modify(order, side, px, size, nothing):
    """Cases of a modify of an order that rests."""
    if nothing:
        yield "modify: to nothing"
    elif side != order.side:
        yield "modify: side"
    elif px != order.px:
        yield "modify: price"
    else:
        yield "modify: larger" if size > order.size else "modify: smaller"
    if order.pending:
        yield "fill: before modify"


def of_book(naive, before):
    """Cases of what a record or call has left.

    Args:
        naive: the oracle.
        before: what `watched` gave before.
    """
    bid, ask = naive.book.best("B"), naive.book.best("A")
    if bid and ask:
        if bid[0] > ask[0]:
            yield "book: crossed"
        if bid[0] == ask[0]:
            yield "book: locked"
    both, bin_seq, centre, pending, rows = before
    if both and naive.book.orders and not (bid and ask):
        yield "book: one side empty after both"
    if bin_seq is not None and naive.bin != bin_seq:
        if pending:
            yield "view: fill pending at a bin end"
        if naive.bin > bin_seq + 10:
            yield "bins: many empty"
    if centre is not None and naive.physics.centre != centre:
        yield "bins: window moved"
    if naive.config.emission == "active" and any(row["event_count"] == 0 for row in naive.rows[rows:]):
        yield "bins: heartbeat"
    if any(level[1] > 2**32 - 2 for level in (bid, ask) if level):
        yield "size: beyond the MBP-10 field"


def watched(naive):
    """What `of_book` compares with."""
    both = naive.book.best("B") and naive.book.best("A")
    pending = any(order.synthetic and order.pending for order in naive.book.orders.values())
    return both, naive.bin, naive.physics.centre, pending, len(naive.rows)
