"""TLS of files: what is in them, what is not, and what becomes of files that change."""

import ssl
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from aether_sync import Connection
from aether_sync._nats import files
from aether_sync._nats.login import NotSentError
from aether_sync._nats.options import LinkOptions
from aether_sync._nats.servers import Server
from aether_sync._nats.settings import Settings
from aether_sync._nats.tls import TLSFiles
from aether_sync.errors import InvalidOptionError

from ..support.credentials import Certificates

SETTINGS = ("tls_ca", "tls_cert", "tls_key")


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what is in them."""
    folder = tmp_path_factory.mktemp("tls")
    ours = Certificates(folder)
    files = {"ca": folder / "ca.pem"}
    files["cert"], files["key"] = ours.issue("me")
    files["other cert"], files["other key"] = ours.issue("you")
    files["both"], files["empty"], files["text"] = folder / "both.pem", folder / "empty.pem", folder / "text.pem"
    files["both"].write_bytes(files["cert"].read_bytes() + files["key"].read_bytes())
    files["empty"].write_bytes(b"")
    files["text"].write_text("-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n")
    files["folder"] = folder
    files["encrypted"] = folder / "encrypted.key"
    return files


def of(issued: dict[str, Path], ca: str = "", cert: str = "", key: str = "") -> TLSFiles:
    files = {name: str(issued[what]) for name, what in zip(SETTINGS, (ca, cert, key), strict=True) if what}
    return TLSFiles(files, {name: f"THE {name}" for name in SETTINGS})


@pytest.mark.parametrize(
    "what", [{"ca": "ca"}, {"cert": "cert", "key": "key"}, {"ca": "ca", "cert": "cert", "key": "key"}, {"cert": "both"}]
)
def test_a_context_trusts_whom_the_files_say(issued: dict[str, Path], what: dict[str, str]) -> None:
    context = of(issued, **what).context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    if "ca" in what:
        assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"ca": "empty"}, r"^THE tls_ca \('.*empty.pem'\) has no certificates of authorities in PEM \(.+\)$"),
        ({"ca": "text"}, "has no certificates of authorities"),
        ({"ca": "key"}, "has no certificates of authorities"),
        ({"ca": "folder"}, "THE tls_ca is the path of a file, and there is none at '/"),
        (
            {"cert": "cert"},
            "THE tls_cert .* does not have both a certificate and its key .*: name its key as THE tls_k",
        ),
        ({"cert": "empty", "key": "key"}, "are not a certificate and its key"),
        ({"cert": "text", "key": "key"}, "are not a certificate and its key"),
        ({"cert": "cert", "key": "empty"}, "are not a certificate and its key"),
        ({"cert": "key", "key": "cert"}, "are not a certificate and its key"),
        ({"cert": "cert", "key": "other key"}, r"^THE tls_key \('.*'\) is not the key of the certificate of THE tls_c"),
        ({"key": "key"}, "THE tls_key is the key of a certificate: name that, too, as THE tls_cert$"),
    ],
)
def test_files_that_are_not_what_they_should_be(issued: dict[str, Path], what: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words) as caught:
        of(issued, **what)
    assert str(caught.value).isprintable()
    assert "BEGIN" not in str(caught.value)


def test_a_passphrase_is_asked_of_nobody(issued: dict[str, Path]) -> None:
    key = load_pem_private_key(issued["key"].read_bytes(), None)
    encryption = BestAvailableEncryption(b"p")
    issued["encrypted"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    with pytest.raises(InvalidOptionError, match=r"THE tls_key .* has an encrypted key, .* give a Connection tls="):
        of(issued, cert="cert", key="encrypted")


def test_a_file_that_changes_is_read_again(issued: dict[str, Path], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_bytes(issued["cert"].read_bytes())
    key.write_bytes(issued["key"].read_bytes())
    tls = TLSFiles({"tls_cert": str(cert), "tls_key": str(key)}, {name: name for name in SETTINGS})
    options = LinkOptions(settings=Settings(servers=("h",), tls=tls), name=None, connect_timeout=1.0, ping_interval=1.0)
    before = options.for_nats(Server("nats://h"))["tls"]
    assert options.for_nats(Server("nats://h"))["tls"] is before

    cert.write_bytes(issued["other cert"].read_bytes())  # the key has not come yet
    with pytest.raises(NotSentError, match="is not the key of the certificate"):
        options.for_nats(Server("nats://h"))
    key.write_bytes(issued["other key"].read_bytes())
    after = options.for_nats(Server("nats://h"))["tls"]
    assert after is not before
    assert options.for_nats(Server("nats://h"))["tls"] is after
    key.unlink()
    with pytest.raises(NotSentError, match=r"tls_key is the path of a file, and there is none"):
        options.for_nats(Server("nats://h"))


@pytest.mark.parametrize("name", ["credentials", "nkeys_seed", *SETTINGS])
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:  # root may read everything, and may run the tests
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InvalidOptionError, match=f"the file at '{path}' cannot be read: Permission denied"):
        Connection(
            "nats://h", trust_env=False, **dict.fromkeys({name, *("tls_cert",) * (name == "tls_key")}, str(path))
        )  # type: ignore[arg-type]
