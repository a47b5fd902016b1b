import gzip
import zlib

import lz4.frame
import pytest
import zstandard

from control.embedded.store_codings import OFFERED, choose, decode, encoder
from control.embedded.store_sql import StoreError

DATA = b"order book " * 10_000
ENCODED = {
    "": DATA,
    "identity": DATA,
    "lz4": lz4.frame.compress(DATA),
    "zstd": zstandard.compress(DATA),
    "gzip": gzip.compress(DATA),
    "deflate": zlib.compress(DATA),
}


@pytest.mark.parametrize("coding", ENCODED)
def test_bodies_are_decoded(coding) -> None:
    assert decode(ENCODED[coding], coding, len(DATA)) == DATA


@pytest.mark.parametrize("coding", OFFERED)
def test_answers_are_encoded_piece_by_piece(coding) -> None:
    coder = encoder(coding)
    pieces = [coder.compress(DATA[at : at + 7_777]) for at in range(0, len(DATA), 7_777)]
    assert decode(b"".join([*pieces, coder.flush()]), coding, len(DATA)) == DATA
    empty = encoder(coding)
    assert decode(empty.flush(), coding, 10) == b""


@pytest.mark.parametrize("coding", OFFERED)
def test_a_bomb_a_stump_and_rubbish_are_refused(coding) -> None:
    with pytest.raises(StoreError, match="longer than"):
        decode(ENCODED[coding], coding, len(DATA) - 1)
    with pytest.raises(StoreError, match="Cannot decompress"):
        decode(ENCODED[coding][:-5], coding, len(DATA))
    with pytest.raises(StoreError, match="Cannot decompress"):
        decode(b"rubbish " * 9, coding, len(DATA))


def test_unknown_codings_are_refused() -> None:
    with pytest.raises(StoreError) as caught:
        decode(b"", "br", 1)
    assert caught.value.status == 501


def test_the_cheapest_that_is_accepted_is_chosen() -> None:
    assert choose("gzip, deflate, zstd;q=0.5, lz4") == "lz4"
    assert choose("deflate , GZIP") == "gzip"
    assert choose("br") is None
    assert choose("") is None
