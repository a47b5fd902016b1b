import databento_dbn
import numpy as np

from engine.state import MBO_KERNEL_DTYPE, MBP_HEADER_DTYPE, ORDER_DTYPE
from schemas.mbo import MBO_DTYPE
from schemas.mbp10 import HEADER_BYTES, LEVEL_BYTES, LEVELS, MBP10_BYTES, MBP10_DTYPE


def test_mbp10_is_the_layout_of_databento():
    assert np.dtype(databento_dbn.MBP10Msg._dtypes) == MBP10_DTYPE
    assert MBP10_DTYPE.itemsize == MBP10_BYTES == HEADER_BYTES + LEVELS * LEVEL_BYTES


def test_kernels_read_records_at_the_same_offsets():
    for kernel, wire in ((MBO_KERNEL_DTYPE, MBO_DTYPE), (MBP_HEADER_DTYPE, MBP10_DTYPE)):
        assert kernel.itemsize == wire.itemsize
        for name in kernel.names:
            assert kernel.fields[name][1] == wire.fields[name][1], name
            assert kernel[name].itemsize == wire[name].itemsize, name


def test_an_order_costs_forty_bytes_with_its_two_places():
    assert ORDER_DTYPE.itemsize + 2 * np.dtype(np.int32).itemsize == 40
