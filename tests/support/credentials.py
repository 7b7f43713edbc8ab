"""Credentials of every kind, made on the spot: nkeys, JWTs and what trusts them, certificates, files.

A NATS JWT is ``base64url(header).base64url(claims).base64url(signature)``, signed with the nkey of its issuer
(https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt).
"""

import base64
import json
import os
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nkeys
import trustme

HOUR = 3600.0


class Key:
    """An nkey: ``public`` to be named, ``seed`` to be kept."""

    def __init__(self, kind: int) -> None:
        self.seed: str = nkeys.encode_seed(os.urandom(32), kind).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, claims: dict[str, object]) -> str:
        """Make a JWT of claims."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class User:
    """A user of an account."""

    def __init__(self, account: "Account") -> None:
        self.account = account
        self.key = Key(nkeys.PREFIX_BYTE_USER)

    def jwt(self, expires_in: float = HOUR, **claims: object) -> str:
        """Make the user's JWT; ``pub`` and ``sub`` are its permissions."""
        now = time.time()
        nats = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2, **claims}
        return self.account.key.sign(
            {
                "jti": os.urandom(8).hex(),
                "iat": int(now),
                "exp": int(now + expires_in),
                "iss": self.account.key.public,
                "sub": self.key.public,
                "name": "user",
                "nats": nats,
            }
        )

    def credentials(self, jwt: str | None = None) -> str:
        """Make the text of a credentials file, as ``nsc`` writes it."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt or self.jwt()}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.key.seed}\n------END USER NKEY SEED------\n"
        )


class Account:
    """An account of an operator."""

    def __init__(self, operator: "Operator") -> None:
        self.operator = operator
        self.key = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def jwt(self, expires_in: float = HOUR, revoked: tuple[User, ...] = (), **limits: int) -> str:
        """Make the account's JWT; ``conn=1`` and the like are its limits."""
        now = time.time()
        unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True}
        return self.operator.key.sign(
            {
                "jti": os.urandom(8).hex(),
                "iat": int(now),
                "exp": int(now + expires_in),
                "iss": self.operator.key.public,
                "sub": self.key.public,
                "name": "account",
                "nats": {
                    "limits": {**unlimited, "conn": -1, "leaf": -1, **limits},
                    "default_permissions": {"pub": {}, "sub": {}},
                    "revocations": {user.key.public: int(now + 1) for user in revoked},
                    "type": "account",
                    "version": 2,
                },
            }
        )


class Operator:
    """Who signs accounts; a server trusts one."""

    def __init__(self) -> None:
        self.key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self.jwt = self.key.sign(  # once: a server does not take another one in a reload
            {
                "jti": os.urandom(8).hex(),
                "iat": int(time.time()),
                "iss": self.key.public,
                "sub": self.key.public,
                "name": "operator",
                "nats": {"type": "operator", "version": 2},
            }
        )

    def config(self, accounts: dict[Account, str]) -> str:
        """Make the configuration of a server that knows these accounts, by their JWTs."""
        known = "\n".join(f"  {account.key.public}: {text}" for account, text in accounts.items())
        return f"operator: {self.jwt}\nresolver: MEMORY\nresolver_preload: {{\n{known}\n}}\n"


class Certificates:
    """A certificate authority, with files of what it issues in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(directory / "ca.pem")

    def issue(self, *names: str, valid_for: timedelta = timedelta(days=365)) -> tuple[Path, Path]:
        """Issue a certificate for host names or a client; returns the files of the chain and of its key."""
        now = datetime.now(UTC)
        issued = self._ca.issue_cert(*names, not_before=now - timedelta(days=2), not_after=now + valid_for)
        label = os.urandom(4).hex()
        chain, key = self._directory / f"{label}.pem", self._directory / f"{label}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return chain, key

    def config(self, *names: str, valid_for: timedelta = timedelta(days=365), more: str = "") -> str:
        """Make the ``tls`` block of a server."""
        chain, key = self.issue(*(names or ("127.0.0.1",)), valid_for=valid_for)
        return (
            f"tls {{ cert_file: {json.dumps(str(chain))}, key_file: {json.dumps(str(key))}, "
            f"ca_file: {json.dumps(str(self._directory / 'ca.pem'))}, timeout: 5\n{more} }}\n"
        )

    def trusting(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Make a client's context that trusts this authority, with a certificate of its own or without."""
        context = ssl.create_default_context(cafile=self._directory / "ca.pem")
        if client is not None:
            context.load_cert_chain(*client)
        return context
