"""TLS for what listens to strangers: gateway and api share one certificate.

A certificate is renewed every few weeks by somebody who knows nothing of this process (an ACME client writes new
files). So the files are looked at now and then, and when they have changed, new connections get the new certificate;
those that stand keep theirs. New files that cannot be used are told once, and the old certificate stays.
"""

import logging
import ssl
from pathlib import Path
from threading import Event, Thread
from typing import Final

from runtime.endpoints import is_loopback
from runtime.errors import InputError
from runtime.settings import Settings

log = logging.getLogger(__name__)

LOOK_S: Final = 60.0
"""How often the files are looked at. Certificates are renewed weeks before they end; with hours between two looks a
revoked one would be shown for hours, and more looks than this help nobody."""


class CertificateError(InputError):
    """Files of a certificate that cannot be served with.

    Args:
        cert, key: the files.
        reason: what is wrong with them.
    """

    def __init__(self, cert: Path, key: Path, reason: str) -> None:
        self.cert, self.key, self.reason = cert, key, reason
        super().__init__(
            f"TLS cannot be served with {cert} and {key}: {reason}",
            remedy="correct BAROGRAPH_TLS_CERT (PEM, the whole chain) and BAROGRAPH_TLS_KEY (PEM, no passphrase)",
        )


class ServerTls:
    """A certificate that is served with, and renewed while it is.

    Args:
        cert: PEM file of the certificate and what it is signed with.
        key: PEM file of its private key, without a passphrase.

    Attributes:
        context: for `ssl=` of a server; TLS 1.2 at least.

    Raises:
        CertificateError: the files are missing, no PEM, or do not belong together.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._stamp()
        self._load(self.context)
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="tls", daemon=True)

    def start(self) -> None:
        """Look at the files now and then, on a thread."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> bool:
        """Take the files if they have changed since the last look; whether they were taken."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # a half-written pair must not touch the one in use
            self._load(self.context)
        except CertificateError as error:
            log.error("%s; the certificate of before is served", error)
            return False
        log.info("new TLS certificate from %s", self._cert)
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_passphrase)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            raise CertificateError(self._cert, self._key, str(reason).lower().replace("_", " ")) from error

    def _stamp(self) -> tuple[int, ...]:
        """When the files were last written; 0 for one that is not there."""
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in (self._cert, self._key))

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()


def _no_passphrase() -> str:
    """OpenSSL would ask the terminal for it, and a service would wait for ever."""
    raise ValueError("the key has a passphrase")


def open_tls(settings: Settings) -> ServerTls | None:
    """The certificate that the settings name; None: plain TCP.

    Raises:
        CertificateError: it cannot be used.
        InputError: only one of the two files is named.
    """
    if not settings.tls_cert and not settings.tls_key:
        if not is_loopback(settings.host):
            log.warning("tokens travel to %s in clear unless a proxy ends TLS; see docs/security.md", settings.host)
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise InputError(
            "a certificate without its key serves nobody", remedy="set BAROGRAPH_TLS_CERT and BAROGRAPH_TLS_KEY"
        )
    return ServerTls(Path(settings.tls_cert), Path(settings.tls_key))
