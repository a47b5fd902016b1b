"""Random damage to small files: a report or a documented error, never anything else, never a loss."""

import hashlib
import random
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import databento_dbn
import numpy as np
import pytest
import zstandard

from connectors.dbn_errors import DbnError
from connectors.dbn_verify import Expected, verify
from schemas.mbo import MBO_DTYPE


def _samples() -> list[bytes]:
    rows = np.zeros(60, MBO_DTYPE)
    rows["length"], rows["rtype"], rows["instrument_id"], rows["action"], rows["side"] = 14, 160, 3, b"A", b"B"
    rows["ts_event"] = rows["ts_recv"] = 1_704_186_000_000_000_000 + np.arange(60)
    rows["price"] = 10**9 * np.arange(1, 61)
    span = SimpleNamespace(start_date=date(2024, 1, 2), end_date=date(2024, 1, 3), symbol="3")
    head = databento_dbn.Metadata(
        dataset="XTST.TEST", start=0, stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID, schema=databento_dbn.Schema.MBO, symbols=["A"],
        mappings=[SimpleNamespace(raw_symbol="A", intervals=[span])],
    ).encode()  # fmt: skip
    plain = bytes(head) + rows.tobytes()
    pack = zstandard.ZstdCompressor(level=1, write_checksum=True).compress
    bare = zstandard.ZstdCompressor(level=1).compress
    return [plain, pack(plain), pack(plain[:400]) + bare(plain[400:]), bare(plain)]


def _damage(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del out[at : at + rng.randint(1, 20)]
            case 3:
                out[at:at] = rng.randbytes(rng.randint(1, 20))
            case _:
                out = out[: at + 1]
        if not out:
            return b""
    return bytes(out)


@pytest.mark.parametrize("seed", range(4))
def test_damage_gives_a_report_or_a_documented_error(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    samples = _samples()
    path = tmp_path / "f.dbn.zst"
    refused: list[DbnError] = []
    for _ in range(600):
        original = rng.choice(samples)
        data = _damage(original, rng)
        path.write_bytes(data)
        manifest = {path.name: Expected(sha256=hashlib.sha256(original).hexdigest())}
        try:
            report = verify(path)
        except DbnError as error:
            refused.append(error)
        else:
            assert report.bytes == len(data)
            if data != original:
                with pytest.raises(DbnError):
                    verify(path, manifest=manifest)
    assert len(refused) > 200
    assert {error.exit_code for error in refused} == {2}
    assert not any("\n" in error.message for error in refused)
