"""One packed row to an Arrow message in one call.

What is live goes out row by row. The message of a single row is the same each time but for the values, so it is written
once as a template, and NumPy copies the fields of a packed row to where Arrow has them, converting on the way: one call
for all columns. One call for each takes twice as long, and more where caches are busy with sockets. Where nothing is
converted, the row's own bytes are joined with what stands between them.

    packed row   | bin_seq | … | bid_depth ········ | …         a structured dtype of the fields that are asked for
                      └──────┐        └── cut to the radius, f64 to f32
    template     [ Arrow's head | spot_tick | … | bid_depth ···· | … ]
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from schemas.columns import ArrowRows, Column, empty_table

_PLACE: Final = {"seq": struct.Struct("<q"), "part": struct.Struct("<i"), "row": struct.Struct("<i")}
"""Columns that no row has: its cursor."""


class OneRow:
    """How rows of one dtype become messages of one layout; for one thread, since the template is filled in place.

    Args:
        row: dtype of the packed rows.
        columns: of the message, all of fixed width.
        arrow: what writes these columns.
        sums: columns that are the sum of two others → those.

    Raises:
        KeyError: the rows lack a column.
        ValueError: their vectors are narrower than what is asked for.
    """

    def __init__(
        self, row: np.dtype, columns: Sequence[Column], arrow: ArrowRows, sums: Mapping[str, tuple[str, str]]
    ) -> None:
        self.row = row
        template, places = arrow.places(empty_table(columns, 1))
        self._made = made = bytearray(template)  # used again and again: what is not a value never changes
        at = {c.name: (c, place) for c, place in zip(columns, places, strict=True)}
        copied = [c for c in columns if c.name not in _PLACE and c.name not in sums]
        self._source = self._view([(c.name, c, c.name) for c in copied])
        self._target = np.frombuffer(made, _dtype([(c.name, _format(c), at[c.name][1]) for c in copied], len(made)))
        self._own = [(_PLACE[name], at[name][1]) for name in _PLACE]
        self._sums = [
            (
                np.frombuffer(made, c.numpy_dtype, max(1, c.width), at[c.name][1]),
                self._view([("a", c, sums[c.name][0]), ("b", c, sums[c.name][1])]),
            )
            for c in columns
            if c.name in sums
        ]
        plain = not self._sums and all(self._source[n] == self._target.dtype[n] for n in self._source.names or ())
        self._between = self._cut(template, {name: place for name, (_, place) in at.items()}) if plain else []

    def _cut(self, template: bytes, places: Mapping[str, int]) -> list[bytes | slice | str]:
        """What the message is joined of: bytes of the template, slices of the row, names of cursor columns."""
        out: list[bytes | slice | str] = []
        done = 0
        for name, place in sorted(places.items(), key=lambda item: item[1]):
            out.append(template[done:place])
            if name in _PLACE:
                out.append(name)
                done = place + _PLACE[name].size
            else:
                dtype, begin = _field(self._source, name)
                out.append(slice(begin, begin + dtype.itemsize))
                done = place + dtype.itemsize
        return [*out, template[done:]]

    def message(self, rows: np.ndarray, seq: int, part: int) -> bytes:
        """The encapsulated record batch of a row, byte for byte what Arrow writes.

        Args:
            rows: structured array of shape `(1,)` and of the dtype given above.
            seq, part: place of the message whose only row it is.
        """
        if self._between:
            have = rows.view(np.uint8).data
            own = {"seq": seq, "part": part, "row": 0}
            return b"".join(
                have[p] if isinstance(p, slice) else _PLACE[p].pack(own[p]) if isinstance(p, str) else p
                for p in self._between
            )
        self._target[:] = rows.view(self._source)
        for (form, at), value in zip(self._own, (seq, part, 0), strict=True):
            form.pack_into(self._made, at, value)
        for values, two in self._sums:
            parts = rows.view(two)
            values[:] = np.add(parts["a"], parts["b"])[0]
        return bytes(self._made)

    def _view(self, wanted: Sequence[tuple[str, Column, str]]) -> np.dtype:
        """Fields of the packed row under other names, vectors cut to the width of a column around their centre."""
        out: list[tuple[str, tuple[np.dtype, tuple[int, ...]], int]] = []
        for name, column, source in wanted:
            dtype, at = _field(self.row, source)
            if column.width:
                aside, odd = divmod(dtype.shape[0] - column.width, 2)
                if aside < 0 or odd:
                    raise ValueError(f"{source} has {dtype.shape[0]} cells, {column.width} are asked for")
                out.append((name, (dtype.base, (column.width,)), at + aside * dtype.base.itemsize))
            else:
                out.append((name, (dtype, ()), at))
        return _dtype(out, self.row.itemsize)


def _field(row: np.dtype, name: str) -> tuple[np.dtype, int]:
    """Dtype and offset of a field."""
    fields = row.fields
    assert fields is not None, "packed rows are structured"
    return fields[name][0], int(fields[name][1])


def _format(column: Column) -> tuple[np.dtype, tuple[int, ...]]:
    return np.dtype(column.numpy_dtype), (column.width,) if column.width else ()


def _dtype(fields: Sequence[tuple[str, tuple[np.dtype, tuple[int, ...]], int]], size: int) -> np.dtype:
    names, formats, offsets = ([f[i] for f in fields] for i in range(3))
    form: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    made: np.dtype = np.dtype(form)
    return made
