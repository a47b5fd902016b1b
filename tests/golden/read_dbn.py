"""Records of a DBN file as the engine takes them."""

import databento
import numpy as np

from schemas.mbo import MBO_DTYPE


def read_mbo(path):
    """All MBO records of a file, MBO_DTYPE."""
    return np.ascontiguousarray(databento.DBNStore.from_file(path).to_ndarray()).view(MBO_DTYPE)
