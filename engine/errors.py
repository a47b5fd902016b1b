"""Errors of the engine; each carries its data.

EngineError
+-- ConfigError         a setting outside its range
+-- BadRecordsError     records that cannot be applied; the engine's state is as it was before the call
+-- BadBinsError        rows of bins that gold cannot take; its state is as it was before the call
+-- TooManyOrdersError  one book would need more orders than its index can hold; what came before them is applied
+-- SnapshotError       bytes that are no snapshot of this engine, or of another version
"""


class EngineError(Exception):
    """Base of all errors of the engine."""


class ConfigError(EngineError, ValueError):
    """A setting of an engine or of gold is outside its range.

    Attributes:
        setting: Name of the field of `EngineConfig` or `GoldConfig`, or of the argument of `Gold`.
        value: What it was.
    """

    def __init__(self, setting: str, value: object, rule: str) -> None:
        self.setting = setting
        self.value = value
        super().__init__(f"{setting} is {value!r}; it must be {rule}")


class BadRecordsError(EngineError, ValueError):
    """Records that cannot be applied.

    Attributes:
        index: Position of the first bad record, or -1 if the array as a whole is wrong.
        what: What is wrong.
    """

    def __init__(self, index: int, what: str) -> None:
        self.index = index
        self.what = what
        super().__init__(what if index < 0 else f"record {index}: {what}")


class BadBinsError(EngineError, ValueError):
    """Rows of bins that gold cannot take; nothing has changed.

    Attributes:
        index: Position of the first bad row, or -1 if a column as a whole is wrong.
        what: What is wrong.
    """

    def __init__(self, index: int, what: str) -> None:
        self.index = index
        self.what = what
        super().__init__(what if index < 0 else f"row {index}: {what}")


class TooManyOrdersError(EngineError):
    """A book would hold more orders than the order index has room for; the engine is to be thrown away.

    Attributes:
        orders_max: How many that is.
    """

    def __init__(self, orders_max: int) -> None:
        self.orders_max = orders_max
        super().__init__(f"one instrument has more than {orders_max} orders resting; this is no order book")


class SnapshotError(EngineError, ValueError):
    """Bytes that cannot be restored: no snapshot of an engine or of gold, damaged, or of another version."""
