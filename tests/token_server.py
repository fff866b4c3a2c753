"""Gives out the tokens of an OCI registry with a login
(https://distribution.github.io/distribution/spec/auth/token/), as GitHub's and Docker's do: to
whoever shows user and password, for exactly what was asked for, no more."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

SERVICE = ISSUER = "tests"


@dataclass
class Tokens:
    """`settings`: what the registry's configuration has to say. `asked`: the scope of each token
    that was given out."""

    settings: str
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running(folder: Path, login: str) -> Iterator[Tokens]:
    """`login`: "name:password" that is let in."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
    tokens = Tokens("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = base64.b64decode(
                self.headers.get("Authorization", "").removeprefix("Basic ")
            ).decode()
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            tokens.asked += scopes
            answer = (
                {"token": _token(key, chain, scopes)}
                if shown == login
                else {"error": "unknown user"}
            )
            self.send_response(200 if shown == login else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args: object) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    tokens.settings = (
        f"auth: {{token: {{realm: 'http://127.0.0.1:{server.server_port}/token', service:"
        f" {SERVICE}, issuer: {ISSUER}, rootcertbundle: {folder / 'certificate.pem'}}}}}\n"
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    )
    made = (
        made.serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    return made.sign(key, hashes.SHA256())


def _token(key: rsa.RSAPrivateKey, chain: list[str], scopes: list[str]) -> str:
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":", 2)
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "tester",
        "aud": SERVICE,
        "nbf": now - 10,
        "iat": now,
        "exp": now + 60,
        "jti": "1",
        "access": access,
    }
    signed = f"{_part({'typ': 'JWT', 'alg': 'RS256', 'x5c': chain})}.{_part(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
