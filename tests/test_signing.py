"""Envelopes and keys: what is signed can be checked by others' rules, and by nobody else's key."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pipeline.errors import SignoffError, Tampered
from pipeline.release import signing

SAID = signing.statement({"weights": "a" * 64}, "urn:test:v1", {"n": 1})


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding, written down from its specification (protocol.md)."""
    kind = payload_type.encode()
    return (
        b"DSSEv1 "
        + str(len(kind)).encode()
        + b" "
        + kind
        + b" "
        + str(len(payload)).encode()
        + b" "
        + payload
    )


def write(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    none = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
    )
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def test_an_envelope_is_dsses(tmp_path: Path) -> None:
    public = serialization.load_pem_public_key(signing.make_key(tmp_path / "k.pem").encode())
    _, signer = signing.signer(
        str(tmp_path / "k.pem"), {"ada": signing.public_key(_pem(public), "k")}
    )
    envelope = json.loads(signing.sign(SAID, signer))
    payload = base64.b64decode(envelope["payload"])
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(payload) == SAID
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(signature, pae(envelope["payloadType"], payload))  # type: ignore[union-attr, call-arg]
    with pytest.raises(InvalidSignature):
        public.verify(signature, pae(envelope["payloadType"], payload + b" "))  # type: ignore[union-attr, call-arg]


def _pem(public: object) -> str:
    found: bytes = public.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found.decode()


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_other_kinds_of_keys_sign(tmp_path: Path, kind: str) -> None:
    key = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(65537, 2048)
    )
    known = {"ada": signing.public_key(write(tmp_path / "k.pem", key), "k")}
    name, signer = signing.signer(str(tmp_path / "k.pem"), known)
    opened = signing.opened(signing.sign(SAID, signer), "log")
    assert (name, signing.signed_by(opened, known, "log")) == ("ada", "ada")


def test_a_weak_key_is_refused(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(
        SignoffError, match="policy: key of ada: found RSA of 1024 bits, expected 2048 at least"
    ):
        signing.public_key(write(tmp_path / "k.pem", weak), "policy: key of ada")


def test_nobody_signed_what_is_unsigned(tmp_path: Path) -> None:
    known = {"ada": signing.public_key(signing.make_key(tmp_path / "k.pem"), "k")}
    with pytest.raises(Tampered, match="signed by nobody whom the policy names"):
        signing.signed_by(signing.opened(signing.sign(SAID, None), "log"), known, "log")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        "null",
        '{"payload": 1}',
        '{"payload": "e30=", "payloadType": "x", "signatures": []}',
    ],
)
def test_what_is_no_envelope_is_refused(text: str) -> None:
    with pytest.raises(Tampered):
        signing.opened(text, "log")


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_text("hello")
    with pytest.raises(SignoffError, match="not a private key in PEM"):
        signing.signer(str(tmp_path / "k.pem"), {})
    with pytest.raises(SignoffError, match="no key that can be read"):
        signing.signer(str(tmp_path / "none.pem"), {})
    with pytest.raises(SignoffError, match="no public key in PEM"):
        signing.public_key("hello", "policy: key of ada")


def test_a_pkcs11_token_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM, Debian's package softhsm2, as the token."""
    module = next((path for path in Path("/usr/lib").glob("**/libsofthsm2.so")), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM on this machine (Debian: softhsm2)")
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    monkeypatch.setenv("PYKCS11LIB", str(module))
    init = [
        "softhsm2-util",
        "--init-token",
        "--free",
        "--label",
        "tests",
        "--pin",
        "1234",
        "--so-pin",
        "1234",
    ]
    subprocess.run(init, check=True, capture_output=True)
    token = pkcs11.lib(str(module)).get_token(token_label="tests")
    with token.open(user_pin="1234", rw=True) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        public, _ = parameters.generate_keypair(store=True, id=b"\x02", label="ada")
        der = encode_ec_public_key(public)
    known = {"ada": signing.public_key(_pem(serialization.load_der_public_key(der)), "token")}
    monkeypatch.setenv(signing.PASSWORD, "1234")
    name, signer = signing.signer("ada=hsm:2?label=tests", known)
    opened = signing.opened(signing.sign(SAID, signer), "log")
    assert (name, signing.signed_by(opened, known, "log")) == ("ada", "ada")
    monkeypatch.setenv(signing.PASSWORD, "4321")
    with pytest.raises(SignoffError, match="nothing was signed"):
        signing.sign(SAID, signer)
