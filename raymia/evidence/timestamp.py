"""Time stamps by RFC 3161: an authority elsewhere signs that it has seen a sha256, and when; anybody can check that later."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import re
import secrets
import ssl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp

from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.services.calls import proxy_of
from raymia.urls import public

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PATIENCE_S = 30.0
"""For the whole of an answer; authorities give it within a second or two."""
MAX_BYTES = 2**18
"""Of an answer; one with all its certificates has up to 16 KiB."""
MAX_ROOTS_BYTES = 2**22
LONGEST_SAID = 300
LONGEST_SERIAL_BITS = 160
SHORTEST_SECRET = 6
"""Characters of a parameter in an address that may be a key."""
QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
LIBRARIES = {"rfc3161_client": "rfc3161-client", "pyasn1_modules": "pyasn1-modules"}
"""What time stamps need, as it is imported and as it is installed."""

SHA256 = "2.16.840.1.101.3.4.2.1"
HASHES: Mapping[str, str] = {SHA256: "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
"""Hashes that a stamp may be signed over, by their object identifiers."""
RSA = "1.2.840.113549.1.1.1"
SIGNATURES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("RSA", "sha256"): (RSA, "1.2.840.113549.1.1.11"),
    ("RSA", "sha384"): (RSA, "1.2.840.113549.1.1.12"),
    ("RSA", "sha512"): (RSA, "1.2.840.113549.1.1.13"),
    ("EC", "sha256"): ("1.2.840.10045.4.3.2",),
    ("EC", "sha384"): ("1.2.840.10045.4.3.3",),
    ("EC", "sha512"): ("1.2.840.10045.4.3.4",),
}
"""What a signature may call itself, by the kind of its key and its hash: PKCS #1 and ECDSA."""
CONTENT_TYPE, MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
SIGNED_BY, SIGNED_BY_V2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"
"""Attributes of a signature that hold a hash of the certificate that it was made for."""


class StampError(RaymiaError):
    """No time stamp was given, or one is not what it should be; the message begins with what is wrong."""


@dataclass(frozen=True)
class Stamp:
    """What a time stamp says, and how far that was checked.

    Attributes:
        when: in UTC, by the authority's clock.
        authority: who signed, as the certificate names them. Anybody may name themselves so unless the stamp is `trusted`.
        serial: that the authority gave the stamp.
        trusted: whether the certificate leads to a root that was given, or that this machine's certificate store holds.
        root: that root, as it names itself; empty where the stamp is not `trusted`.
        checked: the same in a sentence for people.
    """

    when: datetime
    authority: str
    serial: int
    trusted: bool
    root: str
    checked: str

    @property
    def told(self) -> str:
        """When and by whom it was given, and how far that was checked, for people."""
        return f"{self.when:%Y-%m-%d %H:%M:%S} UTC by {self.authority}; {self.checked}"


def require_stamps(url: str | None = None, roots: Path | None = None) -> None:
    """Say beforehand what would keep a time stamp from being asked for or read; nothing is asked.

    Args:
        url: of the authority, where one will be asked.
        roots: PEM file of trusted roots, where there is one.

    Raises:
        ConfigError: names the library, the address or the file.
    """
    for module, name in LIBRARIES.items():
        try:
            _module(module)
        except ImportError as error:
            raise ConfigError(f"time stamps need {name}: pip install 'raymia[evidence]'") from error
    if url is not None:
        _require_address(url)
    if roots is not None:
        _read_roots(roots)


def request(digest: bytes, url: str, patience_s: float = PATIENCE_S) -> bytes:
    """Ask an authority for a time stamp of a sha256; nothing else is sent.

    The answer is checked as `read` does without roots, and to be the one to this question.

    Args:
        digest: sha256 of what is stamped, 32 bytes.
        url: of the authority, over HTTP or HTTPS; it may hold a user and a password.
        patience_s: for the whole answer, in seconds.

    Returns:
        The answer as it came, a TimeStampResp in DER: what is to be kept.

    Raises:
        ConfigError: a library is missing, or the address is none.
        StampError: the authority did not answer, refused, or answered with something else.
    """
    require_stamps(url)
    nonce = secrets.randbits(62) | 1 << 62  # of 63 bits, which every authority can count
    asked = f"time stamp asked of {public(url)}"
    try:
        answer, kind = asyncio.run(_post(url, _query(digest, nonce), patience_s))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        late = isinstance(error, TimeoutError)
        reason = f"no whole answer within {patience_s:g} s" if late else _said(first_line(error), url)
        raise StampError(f"{asked}: {reason}; try again, or ask another authority") from None
    except StampError as error:
        raise StampError(f"{asked}: {error}") from None
    try:
        token = _token(answer, digest)
        if token.nonce != nonce:
            raise StampError("is an answer to another question (its nonce is not the one sent)")
        _require_signed(token)
    except StampError as error:
        raise StampError(
            f"{asked}: what came {_said(str(error), url)}{'' if kind == REPLY else f' (sent as {_said(kind, url)})'}; "
            "ask another authority, or correct the address"
        ) from None
    return answer


def read(answer: bytes, digest: bytes, roots: Path | None = None) -> Stamp:
    """Check a time stamp, without asking anybody, and say what it says.

    The signature is checked by the certificate that came with it, and that certificate at the time of the stamp: it may have
    expired since. Whether it was revoked is not asked. Without `roots`, the chain is followed to this machine's certificate
    store; where it does not end there, the stamp is not `trusted`, which is no error.

    Args:
        answer: what `request` gave.
        digest: sha256 of what should have been stamped, 32 bytes.
        roots: PEM file of the roots that are trusted, and perhaps of certificates between.

    Raises:
        ConfigError: a library is missing, or the file of roots cannot be used.
        StampError: the stamp is of something else, was changed, or does not lead to any of these roots. The message goes on
            where "this time stamp" stood before it.
    """
    require_stamps()
    given = None if roots is None else _read_roots(roots)
    token = _token(answer, digest)
    _require_signed(token)
    found = _root_of(token, digest, _system_roots() if given is None else given)
    name, signer = "" if found is None else _name(found), _name(token.signer)
    if found is None and roots is not None:
        raise StampError(
            f"does not lead from {signer} to a root in {roots} by certificates that were valid on {_at(token.when)}; give the "
            "root certificate of the authority that was asked"
        )
    place = "this machine's certificate store" if roots is None else str(roots)
    checked = f"the signature holds, and its certificate leads to {name}, a root in {place}"
    if found is None:
        checked = (
            "the signature holds, but its certificate was not followed to a trusted root, and anybody can make such a "
            "certificate; give the authority's root certificate to have it checked"
        )
    return Stamp(token.when, signer, token.serial, found is not None, name, checked)


@dataclass(frozen=True)
class _Token:
    """A time stamp of the right digest whose signature was not looked at yet.

    Attributes:
        library: the answer, as rfc3161-client has it.
        signed: the same as SignedData of RFC 5652, as pyasn1 has it.
        signer: certificate by which the signature says that it was made.
        certificates: all that came with it.
        when: that the authority signed.
        serial: of the stamp.
        nonce: of the question; none where the authority left it out.
    """

    library: Any
    signed: Any
    signer: Certificate
    certificates: list[Certificate]
    when: datetime
    serial: int
    nonce: int | None


def _require_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or re.search(r"\s", url) or not url.isprintable():
        shown = public(url) if "://" in url else "what was given"  # which may hold a password in any form
        raise ConfigError(f"time-stamping authority: expected an address such as https://tsa.example.org/tsr, not {shown}")


def _said(text: str, url: str) -> str:
    """What a server said, in one short line, without what is secret in the address by which it was asked."""
    parts = urlsplit(url)
    values = [value for _, value in parse_qsl(parts.query) if len(value) >= SHORTEST_SECRET]
    hidden = [part for part in (parts.password, parts.query, parts.fragment, *values) if part]
    for secret in sorted({*hidden, *map(unquote, hidden)}, key=len, reverse=True):
        text = text.replace(secret, "...")
    return " ".join(text.split())[:LONGEST_SAID] or "no word"


def _query(digest: bytes, nonce: int) -> bytes:
    """A TimeStampReq in DER."""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"a sha256 has 32 bytes, not {len(digest)}")
    asked = _module("pyasn1_modules.rfc3161").TimeStampReq()
    asked["version"] = 1
    asked["messageImprint"]["hashAlgorithm"]["algorithm"] = SHA256
    asked["messageImprint"]["hashAlgorithm"]["parameters"] = b"\x05\x00"  # null
    asked["messageImprint"]["hashedMessage"] = digest
    asked["nonce"] = nonce
    asked["certReq"] = True
    return bytes(_module("pyasn1.codec.der.encoder").encode(asked))


async def _post(url: str, query: bytes, patience_s: float) -> tuple[bytes, str]:
    """What an address answers to a query, and what it calls that.

    Raises:
        StampError: it is no answer to keep, whatever stands in it; says what to do.
    """
    headers = {"Content-Type": QUERY, "Accept": REPLY, "Accept-Encoding": "identity"}
    patience = aiohttp.ClientTimeout(total=patience_s)
    async with (
        aiohttp.ClientSession(timeout=patience, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(url, data=query, headers=headers, allow_redirects=False, proxy=proxy_of(url)) as answer,
    ):
        if 300 <= answer.status < 400:
            there = _said(public(answer.headers.get("Location", "nowhere")), url)
            raise StampError(f"HTTP {answer.status}, which leads to {there}; give that address if you trust it")
        if answer.status != 200:
            raise StampError(f"HTTP {answer.status} {_said(answer.reason or '', url)}; {_advice(answer.status)}")
        content = bytearray()
        async for part in answer.content.iter_chunked(2**14):
            content += part
            if len(content) > MAX_BYTES:
                raise StampError(f"an answer of more than {MAX_BYTES} bytes, which no time stamp has; ask another authority")
        return bytes(content), answer.headers.get("Content-Type", "nothing").partition(";")[0]


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "give the user and password that it wants, as USER:PASSWORD@ before the host in the address"
    return "try again, or ask another authority" if status >= 500 or status in (408, 429) else "correct the address"


def _module(name: str) -> Any:
    """A library of the extra `evidence`; see `require_stamps`."""
    return importlib.import_module(name)


def _token(answer: bytes, digest: bytes) -> _Token:
    """The time stamp in an answer, which says that it is of a digest.

    Raises:
        StampError: there is none, or it is of something else.
    """
    with _understood():
        signed, certificates = _opened(answer)
        library = _module("rfc3161_client").decode_timestamp_response(_in_order(answer, certificates))
        told = library.tst_info
        imprint = (told.message_imprint.hash_algorithm.dotted_string, bytes(told.message_imprint.message))
        loaded = [_certificate(one) for one in certificates]
        signers = [(one.issuer, one.serial_number) for one in library.signed_data.signer_infos]
        own = [one for one in loaded if (one.issuer, one.serial_number) in signers]
        when, serial, nonce = told.gen_time, int(told.serial_number), told.nonce
    if serial.bit_length() > LONGEST_SERIAL_BITS:
        raise StampError(f"has a serial number of {serial.bit_length()} bits, more than RFC 3161 lets one have")
    if imprint[0] != SHA256:
        raise StampError(f"is of a hash of another kind ({imprint[0]}), not of a sha256")
    if imprint[1] != digest:
        raise StampError(f"is of another file or of another state of it: of the sha256 {imprint[1].hex()}, not {digest.hex()}")
    if not loaded:
        raise StampError("holds no certificate, by which alone its signature could be checked; have another made")
    if len(signers) != 1:
        raise StampError(f"has {len(signers)} signatures, where RFC 3161 has one")
    if len(own) != 1:
        issuer, number = signers[0]
        said = f"number {number:#x} of {issuer.rfc4514_string()}"[:LONGEST_SAID]
        raise StampError(f"does not hold the certificate that it is signed by, {said}")
    return _Token(library, signed, own[0], loaded, when, serial, nonce)


@contextmanager
def _understood() -> Iterator[None]:
    """Within this block whatever cannot be read is said to be no answer of RFC 3161."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that nobody would give a certificate today
            yield
    except StampError:
        raise
    except Exception as error:  # the libraries' own errors, and what they do not foresee
        raise StampError(f"is no answer of RFC 3161, or was changed ({type(error).__name__} where it is read)") from error


def _opened(answer: bytes) -> tuple[Any, list[bytes]]:
    """SignedData of RFC 5652 in an answer that grants a time stamp, and the certificates in it, in DER.

    Raises:
        StampError: the answer is longer than one can be, or refuses.
        Exception: it is none, by whatever pyasn1 raises.
    """
    if len(answer) > MAX_BYTES:
        raise StampError(f"has {len(answer)} bytes, more than the {MAX_BYTES} that an answer of RFC 3161 may have")
    rules, syntax = _module("pyasn1_modules.rfc3161"), _module("pyasn1_modules.rfc5652")
    encode = _module("pyasn1.codec.der.encoder").encode
    response = _decoded(answer, rules.TimeStampResp())
    if (status := response["status"])["status"] != 0:
        raise StampError(f"is no grant: {_refusal(status)}")
    token = response["timeStampToken"]
    if token["contentType"] != syntax.id_signedData:
        raise StampError("is no answer of RFC 3161: nothing in it is signed")
    signed = _decoded(bytes(token["content"]), syntax.SignedData())
    # Versions are signed by nobody, and RFC 5652 leaves no choice of them.
    if signed["version"] != 3 or any(one["version"] != 1 for one in signed["signerInfos"]):
        raise StampError("was changed, or is not of the versions that RFC 5652 has for time stamps")
    return signed, [bytes(encode(one["certificate"])) for one in signed["certificates"]]


def _decoded(content: bytes, kind: Any) -> Any:
    found, rest = _module("pyasn1.codec.ber.decoder").decode(content, asn1Spec=kind)
    if rest:
        raise StampError(f"was changed: {len(rest)} bytes stand behind its end")
    return found


def _refusal(status: Any) -> str:
    """Why an authority gave no time stamp, in its own words."""
    faults = status["failInfo"] if status["failInfo"].hasValue() else ()
    # Of a list that may be long, only the bits that mean something are looked at.
    named = [name for name, place in status["failInfo"].namedValues.items() if place < len(faults) and faults[place]]
    texts = [str(text) for text in status["statusString"] if len(text)] if status["statusString"].hasValue() else []
    return "; ".join([status["status"].prettyPrint(), *named, *texts])[:LONGEST_SAID]


def _in_order(answer: bytes, certificates: list[bytes]) -> bytes:
    """An answer whose certificates stand in the order of DER.

    Many authorities leave them in another one, which nothing signs, and rfc3161-client refuses.
    """
    return answer.replace(b"".join(certificates), b"".join(sorted(certificates)), 1) if certificates else answer


def _require_signed(token: _Token) -> None:
    """Hold a signature against the certificate that came with it, and that against what a time stamp's must be.

    Raises:
        StampError: says which does not hold.
    """
    with _understood():
        signer = token.signed["signerInfos"][0]
        attributes = _attributes(signer)
        _require_signature(token, signer, attributes)
        _require_own_certificate(token.signer, attributes)
        _require_for_stamps(token)


def _require_signature(token: _Token, signer: Any, attributes: Mapping[str, bytes]) -> None:
    """Hold a signature against the content and the key (RFC 5652, section 5.6).

    rfc3161-client checks it, too, but only together with a chain that ends at a root.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    content, key = token.signed["encapContentInfo"], token.signer.public_key()
    said, algorithm = (str(signer[part]["algorithm"]) for part in ("digestAlgorithm", "signatureAlgorithm"))
    kinds = {"RSA": rsa.RSAPublicKey, "EC": ec.EllipticCurvePublicKey}
    kind, name = next((one for one, of in kinds.items() if isinstance(key, of)), ""), HASHES.get(said, said)
    if algorithm not in SIGNATURES.get((kind, name), ()):
        raise StampError(f"is signed in a way that is not known here: {algorithm} by a {type(key).__name__} over {name}")
    expected = {
        CONTENT_TYPE: _encoded("ObjectIdentifier", str(content["eContentType"])),
        MESSAGE_DIGEST: _encoded("OctetString", hashlib.new(name, bytes(content["eContent"])).digest()),
    }
    announced = {str(one["algorithm"]) for one in token.signed["digestAlgorithms"]}
    if said not in announced or any(attributes.get(attribute) != value for attribute, value in expected.items()):
        raise StampError("was changed: what its signature is of is not what stands in it")
    hashed: hashes.HashAlgorithm = getattr(hashes, name.upper())()
    over, signature = _signed_bytes(signer), bytes(signer["signature"])
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, over, padding.PKCS1v15(), hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, over, ec.ECDSA(hashed))
    except InvalidSignature:
        raise StampError(f"was changed, or is not by {_name(token.signer)}: its signature does not hold") from None


def _attributes(signer: Any) -> dict[str, bytes]:
    """Signed attributes in DER, by their kind; only those of one value."""
    return {str(one["attrType"]): bytes(one["attrValues"][0]) for one in signer["signedAttrs"] if len(one["attrValues"]) == 1}


def _signed_bytes(signer: Any) -> bytes:
    """What a signature is over: the signed attributes as a set of their own (RFC 5652, section 5.4)."""
    whole = _module("pyasn1_modules.rfc5652").SignedAttributes()
    whole.extend(signer["signedAttrs"])
    return bytes(_module("pyasn1.codec.der.encoder").encode(whole))


def _encoded(kind: str, value: Any) -> bytes:
    return bytes(_module("pyasn1.codec.der.encoder").encode(getattr(_module("pyasn1.type.univ"), kind)(value)))


def _require_own_certificate(certificate: Certificate, attributes: Mapping[str, bytes]) -> None:
    """Hold a certificate against its hash in the signature, without which another of the same key would do (RFC 5816)."""
    from cryptography.hazmat.primitives.serialization import Encoding

    content = certificate.public_bytes(Encoding.DER)
    if SIGNED_BY_V2 in attributes:
        first = _decoded(attributes[SIGNED_BY_V2], _module("pyasn1_modules.rfc5035").SigningCertificateV2())["certs"][0]
        said = str(first["hashAlgorithm"]["algorithm"])
        holds = said in HASHES and hashlib.new(HASHES[said], content).digest() == bytes(first["certHash"])
    elif SIGNED_BY in attributes:
        first = _decoded(attributes[SIGNED_BY], _module("pyasn1_modules.rfc2634").SigningCertificate())["certs"][0]
        holds = hashlib.sha1(content, usedforsecurity=False).digest() == bytes(first["certHash"])
    else:
        holds = False
    if not holds:
        raise StampError(f"holds a certificate of {_name(certificate)} that is not the one that its signature names")


def _require_for_stamps(token: _Token) -> None:
    """Hold a certificate against what RFC 3161 asks of one: for time stamps, for nothing else, and valid when it was used."""
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer = token.signer
    try:
        use = signer.extensions.get_extension_for_class(ExtendedKeyUsage)
        fine = use.critical and list(use.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    except (ExtensionNotFound, ValueError):
        fine = False
    if not fine:
        raise StampError(f"is signed by {_name(signer)}, whose certificate is not one for time stamps alone")
    begun, ended = signer.not_valid_before_utc, signer.not_valid_after_utc
    if not begun <= token.when <= ended:
        raise StampError(
            f"says {_at(token.when)}, when the certificate of {_name(signer)} was not valid: from {_at(begun)} to {_at(ended)}"
        )


def _read_roots(file: Path) -> list[Certificate]:
    """The certificates of a PEM file.

    Raises:
        ConfigError: it cannot be read, or holds no root.
    """
    from cryptography.x509 import load_pem_x509_certificates

    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_ROOTS_BYTES + 1)
        if len(content) > MAX_ROOTS_BYTES:
            raise ValueError(f"more than {MAX_ROOTS_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in `_certificate`
            certificates = load_pem_x509_certificates(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: expected root certificates in PEM ({first_line(error)})") from error
    if not any(_is_root(one) for one in certificates):
        raise ConfigError(
            f"{file}: none of its {len(certificates)} certificates is a root, which is its own issuer; add the root"
        )
    return certificates


def _system_roots() -> list[Certificate]:
    """The roots that this machine trusts; those that cannot be read are left out."""
    found = []
    for content in ssl.create_default_context().get_ca_certs(binary_form=True):
        with suppress(ValueError):
            found.append(_certificate(content))
    return found


def _certificate(content: bytes) -> Certificate:
    from cryptography.x509 import load_der_x509_certificate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above, of old roots
        return load_der_x509_certificate(content)


def _root_of(token: _Token, digest: bytes, trusted: list[Certificate]) -> Certificate | None:
    """The first root that a chain from the signer ends at, all of it valid at the time of the stamp; none where none does."""
    library = _module("rfc3161_client")
    between = [one for one in trusted if not _is_root(one)]
    issuers = {one.issuer for one in (*token.certificates, *between)}
    for root in trusted:
        if not _is_root(root) or root.subject not in issuers:
            continue
        verifier = library.VerifierBuilder(roots=[root], intermediates=list(between)).build()
        with _understood(), suppress(library.VerificationError):
            verifier.verify(token.library, digest)
            return root
    return None


def _is_root(certificate: Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _name(certificate: Certificate) -> str:
    """A certificate's subject, which may be of any length."""
    return certificate.subject.rfc4514_string()[:LONGEST_SAID]


def _at(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
