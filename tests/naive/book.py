"""The order book, slow and obvious: a dict of orders, a dict of queues. Best quotes by max() and min()."""

from dataclasses import dataclass


@dataclass
class Order:
    side: str
    px: int
    size: int
    pending: int = 0
    synthetic: bool = False


class NaiveBook:
    """Orders by id, and ids in queue order by (side, price)."""

    def __init__(self):
        self.orders: dict[int, Order] = {}
        self.queues: dict[tuple[str, int], list[int]] = {}

    def clear(self):
        self.orders.clear()
        self.queues.clear()

    def insert(self, order_id, order):
        self.orders[order_id] = order
        self.queues.setdefault((order.side, order.px), []).append(order_id)

    def remove(self, order_id):
        order = self.orders.pop(order_id)
        queue = self.queues[order.side, order.px]
        queue.remove(order_id)
        if not queue:
            del self.queues[order.side, order.px]
        return order

    def to_back(self, order_id):
        order = self.orders[order_id]
        queue = self.queues[order.side, order.px]
        queue.remove(order_id)
        queue.append(order_id)

    def levels(self, side):
        """(price, size, count), best first."""
        prices = sorted((px for s, px in self.queues if s == side), reverse=side == "B")
        return [
            (px, sum(self.orders[i].size for i in self.queues[side, px]), len(self.queues[side, px])) for px in prices
        ]

    def best(self, side):
        levels = self.levels(side)
        return levels[0] if levels else None

    def queue_position(self, order_id):
        if order_id not in self.orders:
            return None
        order = self.orders[order_id]
        ahead = self.queues[order.side, order.px]
        ahead = ahead[: ahead.index(order_id)]
        return sum(self.orders[i].size for i in ahead), len(ahead)
