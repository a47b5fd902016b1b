"""The engine, slow and obvious, written from the rules and not from the kernels.

Records are NumPy records of `schemas.mbo.MBO_DTYPE`; everything else is ints, floats, lists and dicts. Every bin is
visited, every tick stepped at every bin end.
"""

import hashlib
import struct

from schemas.units import UNDEF_PRICE, UNDEF_SIZE, UNDEF_TIMESTAMP
from tests.naive.book import NaiveBook, Order
from tests.naive.physics import CHAINS, MASSES, NaivePhysics

PARTIAL, SNAPSHOT, VALID, SUSPECT = range(4)
F_LAST, F_SNAPSHOT, F_MBP, F_BAD, F_PUBLISHER = 128, 32, 16, 4, 2
COUNTERS = [
    "bad_timestamp",
    "late_record",
    "off_tick",
    "duplicate_add",
    "unknown_cancel",
    "unknown_modify",
    "undefined_price",
    "undefined_side",
    "non_finite",
    "undefined_size",
]
DAY = 86_400 * 10**9
SUMS = [
    "event_count",
    "trade_count",
    "trade_buy_sz",
    "trade_sell_sz",
    "trade_none_sz",
    "trade_notional",
    "ofi",
    "add_count",
    "cancel_count",
    "modify_count",
    "fill_count",
]


def tick_of(px, unit):
    return (2 * px + unit) // (2 * unit)


def sign(x):
    return (x > 0) - (x < 0)


class NaiveEngine:
    def __init__(self, config):
        self.config = config
        self.unit = config.tick_px * config.bucket
        self.book = NaiveBook()
        self.physics = NaivePhysics(config)
        self.t = None
        self.bin = None
        self.state = PARTIAL
        self.suspect_after = False
        self.snapshot_t = None
        self.events = 0
        self.epoch = 0
        self.bins_since_reset = 0
        self.last_trade_px = UNDEF_PRICE
        self.closed = (None, None)
        self.ofi_point = None
        self.emitted = None
        self.heartbeat = 10
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.rows, self.trades, self.mbp10 = [], [], []
        self.top_ten = self.top()
        self.event_trade = None
        self.clear_sums()

    # -- small helpers

    def clear_sums(self):
        self.sums = dict.fromkeys(SUMS, 0)
        self.flags = set()

    def count(self, name):
        self.counters[name] += 1
        self.flags.add(name)

    def depth(self, index):
        total = {"B": 0, "A": 0}
        for order in self.book.orders.values():
            if tick_of(order.px, self.unit) == index:
                total[order.side] += order.size
        return total

    def depths(self):
        return {i: self.depth(i) for i in {tick_of(o.px, self.unit) for o in self.book.orders.values()}}

    def top(self):
        def ten(side):
            return (self.book.levels(side) + 10 * [(UNDEF_PRICE, 0, 0)])[:10]

        return ten("B"), ten("A")

    # -- time

    def own_time(self, record):
        limit = 1 << 62
        recv = int(record["ts_recv"])
        recv = recv if recv < limit else UNDEF_TIMESTAMP
        value = recv if record["flags"] & F_SNAPSHOT else int(record["ts_event"])
        value = value if value < limit else UNDEF_TIMESTAMP
        bad = value == UNDEF_TIMESTAMP or (recv != UNDEF_TIMESTAMP and value > recv + self.config.max_future_ns)
        value = recv if bad else value
        return (None if value == UNDEF_TIMESTAMP else value), bad

    def apply(self, record):
        own, bad = self.own_time(record)
        if own is None and self.t is None:
            return
        t = own if self.t is None else max(self.t, own if own is not None else self.t)
        if self.state == SNAPSHOT and not record["flags"] & F_SNAPSHOT:
            self.end_snapshot()
        if self.bin is None:
            self.bin = t // self.config.cell_ns
            self.physics.start(self.bin * self.config.cell_ns)
        else:
            self.reach(t)
        if bad:
            self.count("bad_timestamp")
        if own is not None and self.t is not None and own < self.t:
            self.count("late_record")
        self.t = t
        self.events += 1
        self.sums["event_count"] += 1
        self.apply_at(record)

    def reach(self, t):
        if t - self.t > 7 * DAY:
            if self.state == SNAPSHOT:
                self.end_snapshot()
            if self.sums["event_count"]:
                self.close_bin()
            self.reset(PARTIAL, t)
            self.bin = t // self.config.cell_ns
            self.closed = (None, None)
            self.last_trade_px = UNDEF_PRICE
        while (self.bin + 1) * self.config.cell_ns <= t:
            self.close_bin()

    def advance(self, t):
        if self.t is None or t > self.t:
            if self.bin is not None:
                self.reach(t)
            self.t = t

    def flush(self):
        if self.state == SNAPSHOT:
            self.end_snapshot()
        if self.sums["event_count"]:
            self.close_bin()
            self.t = self.bin * self.config.cell_ns

    # -- state of the book

    def reset(self, state, t):
        self.book.clear()
        self.physics.reset(t)
        self.state = state
        self.suspect_after = False
        self.bins_since_reset = 0
        self.epoch += 1
        self.ofi_point = None

    def end_snapshot(self):
        self.state = VALID
        self.bins_since_reset = 0
        self.epoch += 1
        self.physics.reset(max(self.snapshot_t, self.bin * self.config.cell_ns))
        for index, depth in self.depths().items():
            self.physics.set_depth(index, depth)
        if self.suspect_after:
            self.suspect_after = False
            self.suspect()

    def suspect(self):
        if self.state == SNAPSHOT:
            self.suspect_after = True
        elif self.state != SUSPECT:
            self.state = SUSPECT
            self.epoch += 1

    # -- one record

    def apply_at(self, record):
        flags, action = int(record["flags"]), record["action"].decode("latin1")
        if flags & F_SNAPSHOT:
            if action == "R" or self.state != SNAPSHOT:
                self.reset(SNAPSHOT, self.t)
            self.snapshot_t = self.t
        elif action == "R":
            self.reset(VALID, self.t)
        if action in "AM":
            self.place(record, action)
        elif action == "C":
            self.cancel(record)
        elif action == "F" and not flags & F_SNAPSHOT:
            self.fill(record)
        elif action == "T" and not flags & F_SNAPSHOT:
            self.trade(record)
        if flags & F_BAD:
            self.suspect()
        if flags & F_LAST:
            if self.state == SNAPSHOT:
                self.end_snapshot()
            self.ofi()
            self.end_event(record)

    def flow(self, record, index, **flow):
        """Tell the physics: nothing in a snapshot, depth alone when a view changed, else a touch."""
        flags = int(record["flags"])
        if flags & F_SNAPSHOT:
            return
        if flags & F_MBP and flags & F_PUBLISHER:
            self.physics.set_depth(index, self.depth(index))
        else:
            self.physics.touch(index, self.t, self.events, flow, self.depth(index))

    def place(self, record, action):
        px, size = int(record["price"]), int(record["size"])
        side = record["side"].decode("latin1")
        order_id = int(record["order_id"])
        known = order_id in self.book.orders
        if px == UNDEF_PRICE:
            return self.count("undefined_price")
        if side not in ("A", "B"):
            return self.count("undefined_side")
        nothing = size in (0, UNDEF_SIZE)
        if nothing and (action == "A" or not known):
            return self.count("undefined_size")
        self.sums["add_count" if action == "A" else "modify_count"] += 1
        if px % self.config.tick_px:
            self.count("off_tick")
        if not known:
            if action == "M":
                self.count("unknown_modify")
            self.book.insert(order_id, Order(side, px, size, synthetic=bool(record["flags"] & F_MBP)))
            return self.flow(record, tick_of(px, self.unit), add=size)
        if action == "A":
            self.count("duplicate_add")
        order = self.book.orders[order_id]
        if nothing:
            self.take(record, order_id, order.size)
        elif (order.px, order.side) != (px, side):
            self.book.remove(order_id)
            pulled = order.size - min(order.size, order.pending)
            self.flow(record, tick_of(order.px, self.unit), pull=pulled)
            self.book.insert(order_id, Order(side, px, size, synthetic=order.synthetic))
            self.flow(record, tick_of(px, self.unit), add=size)
        elif size > order.size:
            grown = size - order.size
            order.size = size
            self.book.to_back(order_id)
            self.flow(record, tick_of(px, self.unit), add=grown)
        else:
            self.take(record, order_id, order.size - size)
        return None

    def take(self, record, order_id, removed):
        order = self.book.orders[order_id]
        credit = min(removed, order.pending)
        order.pending -= credit
        order.size -= removed
        if order.size == 0:
            self.book.remove(order_id)
        self.flow(record, tick_of(order.px, self.unit), pull=removed - credit)

    def cancel(self, record):
        order_id, size = int(record["order_id"]), int(record["size"])
        if order_id not in self.book.orders:
            return self.count("unknown_cancel")
        self.sums["cancel_count"] += 1
        resting = self.book.orders[order_id].size
        return self.take(record, order_id, resting if size in (0, UNDEF_SIZE) else min(size, resting))

    def fill(self, record):
        order_id, px, size = int(record["order_id"]), int(record["price"]), int(record["size"])
        size = 0 if size == UNDEF_SIZE else size
        if order_id in self.book.orders:
            order = self.book.orders[order_id]
            order.pending += size
            px = order.px
        elif px == UNDEF_PRICE:
            return
        elif px % self.config.tick_px:
            self.count("off_tick")
        self.sums["fill_count"] += 1
        index = tick_of(px, self.unit)
        if not (record["flags"] & F_MBP and record["flags"] & F_PUBLISHER):
            self.physics.touch(index, self.t, self.events, {"fill": size}, self.depth(index))

    def trade(self, record):
        px, size = int(record["price"]), int(record["size"])
        size = 0 if size == UNDEF_SIZE else size
        side = {b"B": 1, b"A": -1}.get(bytes(record["side"]), 0)
        self.sums["trade_count"] += 1
        self.sums[{1: "trade_buy_sz", -1: "trade_sell_sz", 0: "trade_none_sz"}[side]] += size
        if px != UNDEF_PRICE:
            self.last_trade_px = px
            self.sums["trade_notional"] += px / 1e9 * size
        bid = self.book.best("B") or (UNDEF_PRICE, 0, 0)
        ask = self.book.best("A") or (UNDEF_PRICE, 0, 0)
        self.trades.append((self.t, px, size, side, int(record["sequence"]), bid[0], bid[1], ask[0], ask[1]))
        if self.event_trade is None:
            self.event_trade = record.copy()

    # -- end of an event

    def ofi(self):
        bid, ask = self.book.best("B"), self.book.best("A")
        point = None if bid is None or ask is None else (bid[0], bid[1], ask[0], ask[1])
        if point and self.ofi_point:
            b0, qb0, a0, qa0 = self.ofi_point
            b1, qb1, a1, qa1 = point
            self.sums["ofi"] += (b1 >= b0) * qb1 - (b1 <= b0) * qb0 - (a1 <= a0) * qa1 + (a1 >= a0) * qa0
        self.ofi_point = point

    def end_event(self, record):
        top = self.top()
        if self.event_trade is not None or top != self.top_ten:
            source = record if self.event_trade is None else self.event_trade
            head = {
                n: source[n]
                for n in ["ts_event", "price", "size", "action", "side", "ts_recv", "ts_in_delta", "sequence"]
            }
            self.mbp10.append((head, int(record["flags"]), top))
        self.top_ten = top
        self.event_trade = None

    # -- bins

    def close_bin(self):
        end = (self.bin + 1) * self.config.cell_ns
        self.physics.advance(end)
        for order in self.book.orders.values():
            if order.synthetic:
                order.pending = 0
        bid, ask = self.book.best("B"), self.book.best("A")
        mid = spot = None
        if bid and ask:
            mid = (bid[0] + ask[0]) // 2
            spot = tick_of(mid, self.unit)
            self.physics.follow(spot, {} if self.state == SNAPSHOT else self.depths())
        busy = self.sums["event_count"] > 0
        due = self.emitted is not None and self.bin - self.emitted >= self.heartbeat
        if busy or due or self.config.emission == "dense":
            self.emit(bid, ask, mid, spot)
            self.heartbeat = 10 if busy else min(600, 2 * self.heartbeat)
            self.emitted = self.bin
        self.closed = (bid and bid[0], ask and ask[0])
        self.bin += 1
        self.bins_since_reset += 1
        self.clear_sums()

    def move(self, now, before):
        if now is None or before is None:
            return 0
        ticks = tick_of(now[0], self.unit) - tick_of(before, self.unit)
        return max(-(2**31 - 1), min(2**31 - 1, ticks))

    def emit(self, bid, ask, mid, spot):
        row = dict(self.sums)
        row["bin_seq"] = self.bin
        row["ts_start_ns"], row["ts_end_ns"] = (self.bin + i for i in (0, 1))
        row["ts_start_ns"] *= self.config.cell_ns
        row["ts_end_ns"] *= self.config.cell_ns
        row["event_id"], row["book_state"] = self.events, self.state
        row["bins_since_reset"], row["epoch"] = self.bins_since_reset, self.epoch
        row["last_trade_px"] = self.last_trade_px
        row["flags"] = sum(1 << i for i, name in enumerate(COUNTERS) if name in self.flags)
        for name, best in (("bid", bid), ("ask", ask)):
            px, size, orders = best or (UNDEF_PRICE, 0, 0)
            row[f"best_{name}_px"], row[f"best_{name}_sz"], row[f"best_{name}_ct"] = px, size, orders
        row["mid_px"] = UNDEF_PRICE if mid is None else mid
        row["spot_tick"] = 0 if spot is None else spot
        moves = self.move(bid, self.closed[0]), self.move(ask, self.closed[1])
        row["best_bid_move"], row["best_ask_move"] = moves
        row["bid_sign"], row["ask_sign"] = sign(moves[0]), sign(moves[1])
        row["microstate"] = (sign(moves[1]) + 1) * 3 + sign(moves[0]) + 1
        row["chase_up"], row["chase_down"] = int(min(moves) > 0), int(max(moves) < 0)
        for name, levels in zip(("bid", "ask"), self.top(), strict=True):
            for i, what in enumerate(("px", "sz", "ct")):
                row[f"{name}_{what}"] = [level[i] for level in levels]
        row.update(self.vectors(spot))
        self.rows.append(row)

    def vectors(self, spot):
        radius = self.config.radius
        zero = self.physics.blank
        window = [zero if spot is None else self.physics.ticks.get(spot + k, zero) for k in range(-radius, radius + 1)]
        out = {f"{m}_mass": [tick.mass[m] for tick in window] for m in MASSES}
        out["bid_depth"] = [float(tick.depth["B"]) for tick in window]
        out["ask_depth"] = [float(tick.depth["A"]) for tick in window]
        for i, order in enumerate("vaj"):
            for name in CHAINS:
                out[f"{order}_{name}"] = [tick.chain[name][i] for tick in window]
        out["last_event_id"] = [tick.last_event_id for tick in window]
        return out

    def digest(self):
        h = hashlib.sha256()
        for side in "BA":
            for px, size, orders in self.book.levels(side):
                h.update(struct.pack("<cqqqI", side.encode(), tick_of(px, self.unit), px, size, orders))
                for i in self.book.queues[side, px]:
                    h.update(struct.pack("<QI", i, self.book.orders[i].size))
        return h.hexdigest()
