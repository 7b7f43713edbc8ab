"""TLS of files: whom to trust, and who we are, as an ``ssl.SSLContext``.

The files are read when a connection is made, so that a wrong one is told before anything else happens, and again for an
attempt to connect if they have changed: certificates are renewed while programs run.
"""

import os
import ssl
from collections.abc import Mapping
from typing import NoReturn

from ..errors import InvalidOptionError
from .checks import check_readable

__all__ = ["TLSFiles"]

_Stamps = tuple[tuple[int, int, int], ...]


class TLSFiles:
    """The files of a TLS configuration. One of them has a certificate, or an authority's.

    Args:
        files: Paths by setting: ``tls_ca`` has the certificates of the authorities to trust, by default those of the
            system; ``tls_cert`` has the chain of this client's certificate, and ``tls_key`` its private key, which may
            also stand in the file of the certificate.
        names: What errors call the settings, also those that are not given.

    Raises:
        InvalidOptionError: A file cannot be read, or does not have what it should; or the key is not the certificate's.
    """

    def __init__(self, files: Mapping[str, str], names: Mapping[str, str]) -> None:
        self._files = dict(files)
        self._names = dict(names)
        self._made: tuple[_Stamps, ssl.SSLContext] | None = None  # set in one step: no lock is needed
        if "tls_key" in files and "tls_cert" not in files:
            raise InvalidOptionError(
                f"{names['tls_key']} is the key of a certificate: name that, too, as {names['tls_cert']}"
            )
        self.context()

    def context(self) -> ssl.SSLContext:
        """Return the context of the files as they are now.

        Raises:
            InvalidOptionError: As above.
        """
        for name, path in self._files.items():
            check_readable(self._names[name], path)
        stamps = self._stamps()
        made = self._made
        if made is None or made[0] != stamps:
            self._made = made = stamps, self._make()
        return made[1]

    def _stamps(self) -> _Stamps:
        try:
            found = [os.stat(path) for path in self._files.values()]
        except OSError as error:  # it is gone since it was opened
            raise InvalidOptionError(f"a file of TLS cannot be read: {error.strerror}") from None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def _make(self) -> ssl.SSLContext:
        context = self._trusting()
        if "tls_cert" in self._files:
            cert, key = self._files["tls_cert"], self._files.get("tls_key")
            try:
                context.load_cert_chain(cert, key, self._refuse_encrypted)
            except InvalidOptionError:
                raise
            except (ssl.SSLError, OSError, ValueError) as error:
                raise InvalidOptionError(self._cert_problem(error)) from None
        return context

    def _trusting(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._files.get("tls_ca"))
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidOptionError(
                f"{self._shown('tls_ca')} has no certificates of authorities in PEM ({_reason(error)})"
            ) from None

    def _cert_problem(self, error: Exception) -> str:
        reason, cert = _reason(error), self._shown("tls_cert")
        if reason == "KEY_VALUES_MISMATCH":
            key = self._shown("tls_key") if "tls_key" in self._files else "the key in the same file"
            return f"{key} is not the key of the certificate of {cert}"
        if "tls_key" not in self._files:
            key = self._names["tls_key"]
            return f"{cert} does not have both a certificate and its key in PEM ({reason}): name its key as {key}"
        return f"{cert} and {self._shown('tls_key')} are not a certificate and its key in PEM ({reason})"

    def _refuse_encrypted(self) -> NoReturn:
        """OpenSSL asks the terminal for a passphrase, if nobody says otherwise."""
        name = "tls_key" if "tls_key" in self._files else "tls_cert"
        raise InvalidOptionError(
            f"{self._shown(name)} has an encrypted key, for which nobody is asked: decrypt it, or give a Connection "
            "tls=, an ssl.SSLContext that has loaded it"
        )

    def _shown(self, name: str) -> str:
        return f"{self._names[name]} ({self._files[name]!r})"


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)
