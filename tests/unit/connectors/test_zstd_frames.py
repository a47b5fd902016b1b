"""Frames: equal to libzstd on whole streams, an error on everything else, bounded memory."""

import numpy as np
import pytest
import zstandard

from connectors.zstd_frames import FrameError, ZstdFrames

PLAIN = np.random.default_rng(3).integers(0, 9, 300_000, np.uint8).tobytes()
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"


def pack(plain: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(plain)


def unpack(data: bytes, step: int = 1 << 20) -> tuple[bytes, int]:
    frames = ZstdFrames()
    out = b"".join(p for at in range(0, len(data), step) for p in frames.feed(data[at : at + step]))
    frames.finish()
    assert frames.offset == len(data)
    return out, frames.frames


@pytest.mark.parametrize("step", [1, 2, 1000, 1 << 20])
@pytest.mark.parametrize("checksum", [True, False])
def test_frames_of_all_kinds_follow_each_other(step: int, checksum: bool) -> None:
    one = pack(PLAIN, write_checksum=checksum)
    no_size = pack(PLAIN[:500], write_content_size=False)
    empty = pack(b"")
    assert unpack(SKIPPABLE + one + SKIPPABLE + no_size + empty, step) == (PLAIN + PLAIN[:500], 3)


def test_every_cut_within_a_frame_is_refused() -> None:
    data = pack(PLAIN[:2000], write_checksum=True)
    for cut in range(1, len(data)):
        with pytest.raises(FrameError) as caught:
            unpack(data[:cut])
        assert caught.value.ended, cut
        assert caught.value.offset == cut


def test_every_cut_within_a_skippable_frame_is_refused() -> None:
    data = pack(b"x") + SKIPPABLE
    for cut in range(len(data) - len(SKIPPABLE) + 1, len(data)):
        with pytest.raises(FrameError):
            unpack(data[:cut])


@pytest.mark.parametrize("garbage", [b"\0", b"x", b"\x28\xb5\x2f\xfe", b"\x28\xb5x", b"\x50\x2a\x4d\x19"])
def test_garbage_between_and_after_frames_is_refused(garbage: bytes) -> None:
    one = pack(PLAIN[:100])
    for data in (one + garbage, one + garbage + one):
        with pytest.raises(FrameError, match="other bytes after its last zstd frame"):
            unpack(data)


def test_a_flipped_bit_breaks_the_checksum() -> None:
    data = bytearray(pack(PLAIN[:1000], write_checksum=True))
    data[-1] ^= 1
    with pytest.raises(FrameError, match="checksum"):
        unpack(bytes(data))


def test_a_bomb_unfolds_in_small_pieces() -> None:
    frames = ZstdFrames()
    bomb = pack(bytes(256 << 20))
    assert len(bomb) < 64 << 10
    assert max(len(piece) for piece in frames.feed(bomb)) <= 128 << 10


def test_an_outsized_window_is_refused_before_memory_is_taken() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    data = stream.compress(b"x" * 1000) + stream.flush()
    with pytest.raises(FrameError, match="window of 256 MiB") as caught:
        unpack(data)
    assert caught.value.outsized
