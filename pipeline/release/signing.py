"""Signatures: in-toto Statements (v1) in DSSE envelopes (v1), one line of JSON each. The envelope
and the signers (a key in a file, a PKCS#11 token, sigstore) are securesystemslib's; the
specifications are in-toto/attestation and secure-systems-lab/dsse."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    Signer,
    SigstoreSigner,
    SSlibKey,
)

from pipeline.errors import SignoffError, Tampered

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PASSWORD = "QUANTGATE_KEY_PASSWORD"  # noqa: S105  (the variable's name)
RSA_BITS = 2048  # the least that NIST SP 800-131A allows
TOKENS = ("hsm:", "sigstore:")  # what securesystemslib calls keys that are no file

SIGNER_FOR_URI_SCHEME.setdefault(SigstoreSigner.SCHEME, SigstoreSigner)


@dataclass(frozen=True)
class Opened:
    """An envelope that was read, and not yet believed: `statement` is what it says, `by` the ids of
    the keys it names."""

    statement: dict[str, Any]
    envelope: Envelope

    @property
    def by(self) -> list[str]:
        return list(self.envelope.signatures)


def make_key(path: Path) -> str:
    """Writes a new Ed25519 key (PKCS#8 PEM, readable by its owner alone, encrypted if
    QUANTGATE_KEY_PASSWORD is set); returns the public one (PEM). Raises SignoffError if the file is
    there."""
    password = os.environ.get(PASSWORD)
    encryption = (
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption()
    )
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise SignoffError(
            f"{path}: cannot be written ({error.strerror}). Make the folder first, or choose"
            " another."
        ) from error
    except FileExistsError as error:
        raise SignoffError(
            f"{path}: there is a file of that name, and a key is never replaced. Choose another"
            " name."
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(pem)
    except OSError:  # no room: half a key would be in the way of the next try
        path.unlink()
        raise
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public.decode()


def public_key(pem: str, what: str) -> Key:
    """Raises SignoffError unless `pem` is a public key, and no weak one."""
    try:
        public = serialization.load_pem_public_key(pem.encode())
        key = SSlibKey.from_crypto(public)
    except ValueError as error:
        raise SignoffError(
            f"{what}: no public key in PEM. Paste what `quantgate signoff key` printed."
        ) from error
    if isinstance(public, RSAPublicKey) and public.key_size < RSA_BITS:
        raise SignoffError(
            f"{what}: found RSA of {public.key_size} bits, expected {RSA_BITS} at least. Make"
            " another key."
        )
    return key


def signer(where: str, known: dict[str, Key]) -> tuple[str, Signer]:
    """Who of the `known` (name -> public key) holds the private key, and what signs with it.

    `where` is a PEM file, or NAME=hsm:... or NAME=sigstore:... in securesystemslib's words. Raises
    SignoffError."""
    name, _, uri = where.partition("=")
    if uri.startswith(TOKENS):
        if name not in known:
            raise SignoffError(
                f"{where}: signoff/policy.yaml names no {name!r}. It names:"
                f" {', '.join(known) or 'nobody'}."
            )
        try:
            return name, Signer.from_priv_key_uri(
                uri, known[name], lambda secret: os.environ[PASSWORD]
            )
        except (SigningError, ValueError, KeyError) as error:
            raise SignoffError(
                f"{where}: cannot sign with it: {error!r}. A PKCS#11 token needs PYKCS11LIB, its"
                " module."
            ) from error
    try:
        own = CryptoSigner(_private_key(Path(where)))
    except ValueError as error:
        raise SignoffError(
            f"{where}: a kind of key that cannot sign here; expected Ed25519, ECDSA or RSA."
        ) from error
    holder = next((name for name, key in known.items() if key.keyid == own.public_key.keyid), None)
    if holder is None:
        raise SignoffError(
            f"{where}: nobody in signoff/policy.yaml has this key for that. It names:"
            f" {', '.join(known) or 'nobody'}."
        )
    return holder, own


def _private_key(path: Path) -> Any:
    password = os.environ.get(PASSWORD)
    try:
        return serialization.load_pem_private_key(
            path.read_bytes(), password.encode() if password else None
        )
    except OSError as error:
        raise SignoffError(
            f"{path}: no key that can be read ({error.strerror}). Make one: quantgate signoff key"
            " FILE"
        ) from error
    except (ValueError, TypeError) as error:
        raise SignoffError(
            f"{path}: not a private key in PEM that opens ({error}). {PASSWORD} is"
            f" {'set' if password else 'not set'}: an encrypted key needs it, another must not"
            " have it."
        ) from error


def statement(
    subjects: dict[str, str], predicate_type: str, predicate: dict[str, Any]
) -> dict[str, Any]:
    """An in-toto Statement about files, by name and SHA-256."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects.items()
        ],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def sign(payload: dict[str, Any], signer: Signer | None) -> str:
    """The statement as one line: in an envelope signed by the signer, or by nobody."""
    envelope = Envelope(
        json.dumps(payload, sort_keys=True, separators=(",", ":")).encode(), PAYLOAD_TYPE, {}
    )
    if signer is not None:
        try:
            envelope.sign(signer)
        except Exception as error:  # each kind of key fails in ways of its own
            raise SignoffError(
                f"nothing was signed: {error!r}. A PKCS#11 token needs PYKCS11LIB and its PIN in"
                f" {PASSWORD}."
            ) from error
    return json.dumps(envelope.to_dict(), sort_keys=True) + "\n"


def opened(line: str, what: str) -> Opened:
    """Reads an envelope. Raises Tampered if it is none."""
    try:
        envelope = Envelope.from_dict(json.loads(line))
        payload = json.loads(envelope.payload)
        right = (
            envelope.payload_type == PAYLOAD_TYPE
            and payload["_type"] == STATEMENT_TYPE
            and {"subject", "predicate"} <= payload.keys()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SigningError) as error:
        raise Tampered(f"{what}: not a DSSE envelope ({error!r}).") from error
    if not right:
        raise Tampered(f"{what}: not an in-toto Statement in a DSSE envelope.")
    return Opened(payload, envelope)


def signed_by(unverified: Opened, known: dict[str, Key], what: str) -> str:
    """Who of the known signed it. Raises Tampered if nobody did."""
    for name, key in known.items():
        if key.keyid in unverified.by:
            try:
                unverified.envelope.verify([key], 1)
            except SigningError as error:
                raise Tampered(
                    f"{what}: the signature of {name} does not hold: it was changed after it was"
                    " signed."
                ) from error
            return name
    raise Tampered(
        f"{what}: signed by nobody whom the policy names for that"
        f" ({', '.join(known) or 'it names nobody'})."
    )
