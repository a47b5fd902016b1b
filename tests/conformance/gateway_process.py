"""A gateway with authentication in a process of its own, whose memory can be looked at: `FOLDER` → port on stdout.

Times that only make tests wait are shorter here: the opening handshake, and between two looks at the keys.
"""

import asyncio
import sys
from pathlib import Path

from runtime import auth
from runtime.settings import Settings
from tests.browser.synthetic import SyntheticFeeder
from ws_gateway import server, wire

ORIGIN = "http://127.0.0.1:8760"
HANDSHAKE_S = 2.0


async def main(folder: Path) -> None:
    auth.REREAD_S = 0.5
    wire.HANDSHAKE_S = HANDSHAKE_S
    authority = auth.open_authority(Settings(auth="both", auth_jwks=str(folder / "jwks.json"), data_dir=folder))
    authority.start()
    gateway = server.Gateway(SyntheticFeeder(period_s=0.1, history=3), [ORIGIN], authority=authority)
    await gateway.run("127.0.0.1", 0, asyncio.Event(), lambda port: print(port, flush=True))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
