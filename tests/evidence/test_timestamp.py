"""Time stamps of a real authority: `openssl ts` behind a web server, and `openssl ts -verify` as the second opinion."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyasn1.codec.ber.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1_modules import rfc3161, rfc5280, rfc5652
from typer.testing import CliRunner

from raymia.cli import app
from raymia.errors import ConfigError, RaymiaError
from raymia.evidence import timestamp
from raymia.evidence.bundle import seal
from raymia.evidence.registration import REGISTRATION_FILE, STAMP_FILE, read_registration, stamp, stamp_of
from raymia.evidence.timestamp import MAX_BYTES, Stamp, StampError, read, request, require_stamps
from raymia.run.storage import Storage

DIGEST = hashlib.sha256(b"a registration").digest()
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Answer = tuple[int, dict[str, str], bytes]
DAY = timedelta(days=1)
CONFIGURATION = """\
[authority]
serial = {folder}/serial
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
ess_cert_id_alg = {named_by}
signer_digest = {signed_over}
"""


@dataclass
class Party:
    """A certificate, its key and who signed it."""

    certificate: x509.Certificate
    key: Key
    name: str

    def pem(self, *more: Party) -> bytes:
        return b"".join(one.certificate.public_bytes(serialization.Encoding.PEM) for one in (self, *more))

    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def party(name: str, by: Party | None = None, authority: bool = False, key: Key | None = None, **options: Any) -> Party:
    """A party that another, or itself, vouches for; `ends`, `serial`, `uses` and `also`, another name, may be given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(options.get("serial", x509.random_serial_number()))
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(options.get("ends", now + 2 * DAY))
        .add_extension(x509.BasicConstraints(ca=not authority, path_length=None), critical=True)
    )
    if "also" in options:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(options["also"])]), critical=False)
    if authority:
        uses = options.get("uses", [ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=options.get("critical", True))
    return Party(builder.sign(key if by is None else by.key, hashes.SHA256()), key, name)


@dataclass
class Authority:
    """A time-stamping authority, as `openssl ts` is one."""

    folder: Path
    signer: Party
    chain: tuple[Party, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        settings = {"digests": "sha256", "named_by": "sha256", "signed_over": "sha256", **self.settings}
        (self.folder / "ts.cnf").write_text(CONFIGURATION.format(folder=self.folder, **settings))
        (self.folder / "serial").write_text("01\n")
        (self.folder / "signer.pem").write_bytes(self.signer.pem())
        (self.folder / "chain.pem").write_bytes(b"".join(one.pem() for one in self.chain))
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        content = self.signer.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        (self.folder / "key.pem").write_bytes(content)

    def answer(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        chain = ("-chain", "chain.pem") if self.chain else ()
        self._openssl(
            *("ts", "-reply", "-config", "ts.cnf", "-section", "authority", "-queryfile", "query", "-out", "answer"),
            *("-signer", "signer.pem", "-inkey", "key.pem", *chain),
        )
        return (self.folder / "answer").read_bytes()

    def stamp(self, digest: bytes = DIGEST, *words: str) -> bytes:
        """An answer to a query by openssl itself."""
        self._openssl("ts", "-query", "-digest", digest.hex(), "-sha256", *(words or ("-cert",)), "-out", "asked")
        return self.answer((self.folder / "asked").read_bytes())

    def text(self, kind: str, content: bytes) -> str:
        """A query or reply in words, by openssl."""
        (self.folder / "content").write_bytes(content)
        return self._openssl("ts", f"-{kind}", "-in", "content", "-text", *(("-config", "ts.cnf") if kind == "reply" else ()))

    def _openssl(self, *words: str) -> str:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout


def openssl_agrees(answer: bytes, roots: Path, digest: bytes = DIGEST, at: float | None = None) -> bool:
    """Whether openssl finds that an answer is a time stamp of a digest, by a chain to one of these roots."""
    file = roots.parent / "to_verify"
    file.write_bytes(answer)
    words = ["openssl", "ts", "-verify", "-digest", digest.hex(), "-in", str(file), "-CAfile", str(roots)]
    done = subprocess.run([*words, *(() if at is None else ("-attime", str(int(at))))], capture_output=True, check=False)
    return done.returncode == 0


@dataclass
class Served:
    """Where an authority is asked, and what was."""

    url: str
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def serving(rule: Callable[[bytes], Answer | Iterator[bytes]]) -> Iterator[Served]:
    """A web server that does with a query what it is told to: an answer, or the parts of one as they come."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            served.asked.append((dict(self.headers), query))
            told = rule(query)
            if not isinstance(told, tuple):
                self.send_response(200)
                self.end_headers()
                for part in told:
                    self.wfile.write(part)
                return
            status, headers, content = told
            reason = headers.pop("reason", None)
            self.send_response(status, reason)
            for name, value in {"Content-Type": "application/timestamp-reply", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away is no error of the server."""

    with Listening(("127.0.0.1", 0), Handler) as listening:
        served = Served(f"http://127.0.0.1:{listening.server_port}/tsr")
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield served
        listening.shutdown()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Party, Path]:
    """A root and its PEM file."""
    pytest.importorskip("rfc3161_client", reason="rfc3161-client is not installed")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    made = party("Root of the test")
    file = tmp_path_factory.mktemp("roots") / "root.pem"
    file.write_bytes(made.pem())
    return made, file


@pytest.fixture(scope="module")
def authority(root: tuple[Party, Path], tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), party("Authority of the test", root[0], authority=True))


def refused(answer: bytes, roots: Path | None = None, digest: bytes = DIGEST) -> str:
    with pytest.raises(StampError) as caught:
        read(answer, digest, roots)
    return str(caught.value)


def test_an_authority_is_asked_and_what_it_signed_is_read(authority: Authority, root: tuple[Party, Path]) -> None:
    with serving(lambda query: (200, {}, authority.answer(query))) as served:
        answer = request(DIGEST, served.url)
        other = request(DIGEST, served.url)
    (headers, query), (_, second) = served.asked
    assert headers["Content-Type"] == "application/timestamp-query"
    asked = authority.text("query", query)
    assert re.search(r"Hash Algorithm: sha256\n.*Certificate required: yes", asked, re.DOTALL)
    assert DIGEST in query
    assert re.findall("Nonce: (.*)", asked) != re.findall("Nonce: (.*)", authority.text("query", second))

    stamp = read(answer, DIGEST, root[1])
    said = authority.text("reply", answer)
    # The second opinion: of the whole, of the time and of the number.
    assert openssl_agrees(answer, root[1])
    assert datetime.strptime(re.findall("Time stamp: (.*) GMT", said)[0], "%b %d %H:%M:%S %Y").replace(tzinfo=UTC) == stamp.when
    assert int(re.findall("Serial number: (.*)", said)[0], 16) == stamp.serial
    assert abs((stamp.when - datetime.now(UTC)).total_seconds()) < 60
    assert (stamp.authority, stamp.trusted, stamp.root) == ("CN=Authority of the test", True, "CN=Root of the test")
    assert stamp.checked.endswith(f"its certificate leads to CN=Root of the test, a root in {root[1]}")
    assert read(other, DIGEST, root[1]).serial == stamp.serial + 1


def test_without_roots_a_stamp_says_that_nobody_vouches_for_it_unless_this_machine_knows_the_root(
    authority: Authority, root: tuple[Party, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = authority.stamp()
    alone = read(answer, DIGEST)
    assert (alone.trusted, alone.root) == (False, "")
    assert "was not followed to a trusted root, and anybody can make such a certificate" in alone.checked
    monkeypatch.setenv("SSL_CERT_FILE", str(root[1]))
    known = read(answer, DIGEST)
    assert (known.trusted, known.root) == (True, "CN=Root of the test")
    assert known.checked.endswith("a root in this machine's certificate store")
    assert (known.when, known.serial, known.authority) == (alone.when, alone.serial, alone.authority)


@pytest.mark.parametrize("also", [{}, {"also": 60 * "b"}])
def test_certificates_between_may_stand_in_the_stamp_in_any_order_or_beside_the_root(
    also: dict[str, str], root: tuple[Party, Path], tmp_path: Path
) -> None:
    between = party("Between", root[0], **also)
    signer = party("Authority", between, authority=True)
    answer = Authority(tmp_path / "whole", signer, (between,)).stamp()
    # DER sorts them by their bytes, of which the length comes first; openssl writes the signer's before the others.
    assert signer.der() + between.der() in answer
    assert (len(signer.der()) < len(between.der())) == bool(also)
    assert openssl_agrees(answer, root[1])
    assert read(answer, DIGEST, root[1]).trusted
    short = Authority(tmp_path / "short", signer).stamp()
    assert "does not lead from CN=Authority to a root in" in refused(short, root[1])
    assert not openssl_agrees(short, root[1])
    both = tmp_path / "both.pem"
    both.write_bytes(between.pem(root[0]))
    assert read(short, DIGEST, both).root == "CN=Root of the test"
    assert openssl_agrees(short, both)


def test_keys_and_hashes_that_authorities_use_are_understood(root: tuple[Party, Path], tmp_path: Path) -> None:
    keys: list[tuple[Key, str, str]] = [
        (rsa.generate_private_key(65537, 2048), "sha512", "sha1"),
        (ec.generate_private_key(ec.SECP384R1()), "sha384", "sha512"),
    ]
    for number, (key, signed_over, named_by) in enumerate(keys):
        signer = party("Authority", root[0], authority=True, key=key)
        settings = {"signed_over": signed_over, "named_by": named_by}
        answer = Authority(tmp_path / str(number), signer, (), settings).stamp()
        assert read(answer, DIGEST, root[1]).trusted
        assert openssl_agrees(answer, root[1])


def test_a_refusal_is_told_in_the_authoritys_words(root: tuple[Party, Path], authority: Authority, tmp_path: Path) -> None:
    strict = Authority(tmp_path, authority.signer, (), {"digests": "sha512"})
    with serving(lambda query: (200, {}, strict.answer(query))) as served, pytest.raises(StampError) as caught:
        request(DIGEST, served.url)
    assert str(caught.value) == (
        f"time stamp asked of {served.url}: what came is no grant: rejection; badAlg; Message digest algorithm is not "
        "supported.; ask another authority, or correct the address"
    )


def test_an_answer_to_another_question_is_not_kept(authority: Authority, root: tuple[Party, Path]) -> None:
    earlier, nameless = authority.stamp(), authority.stamp(DIGEST, "-cert", "-no_nonce")
    other = authority.stamp(hashlib.sha256(b"another").digest())
    without = authority.stamp(DIGEST, "-no_nonce")
    for answer, what in (
        (earlier, "its nonce is not the one sent"),
        (nameless, "its nonce is not the one sent"),
        (other, f"of the sha256 {hashlib.sha256(b'another').hexdigest()}, not {DIGEST.hex()}"),
        (without, "holds no certificate, by which alone its signature could be checked"),
    ):
        with serving(lambda _, answer=answer: (200, {}, answer)) as served, pytest.raises(StampError, match=re.escape(what)):
            request(DIGEST, served.url)
    assert read(nameless, DIGEST, root[1]).trusted, "kept by another program, it is a time stamp all the same"
    assert refused(other, root[1]).startswith("is of another file or of another state of it")
    assert refused(without, root[1]).startswith("holds no certificate")


WORD, WRITTEN = "hush/hush", "hush%2Fhush"
"""A password, and as it stands in a URL."""
ECHO = f"{WORD} and a-long-key"


def slow(_: bytes) -> Iterator[bytes]:
    for _ in range(40):
        yield b"0"
        time.sleep(0.05)


def endless(_: bytes) -> Iterator[bytes]:
    while True:
        yield bytes(2**16)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            lambda _: (200, {"Content-Type": "text/html; charset=a"}, b"<html>hello"),
            r"is no answer of RFC 3161.*sent as text/html",
        ),
        (lambda _: (200, {"Content-Type": ECHO}, b""), r"is no answer of RFC 3161.*\(sent as \.\.\. and \.\.\.\)"),
        (lambda _: (404, {"reason": ECHO}, b""), r"HTTP 404 \.\.\. and \.\.\.; correct the address"),
        (lambda _: (401, {}, b""), "HTTP 401 Unauthorized; give the user and password that it wants"),
        (lambda _: (503, {}, b""), "HTTP 503 Service Unavailable; try again"),
        (
            lambda _: (308, {"Location": "https://other:secret@example.org/tsr?key=a-long-key"}, b""),
            "HTTP 308, which leads to https://example.org/tsr; give that address if you trust it",
        ),
        (endless, f"an answer of more than {MAX_BYTES} bytes"),
        (slow, r"no whole answer within 0\.3 s; try again"),
        (lambda _: (200, {"Content-Length": "5000"}, b"0"), "ClientPayloadError|not enough data|payload is not completed"),
    ],
)
def test_what_else_may_come_is_told_in_one_line_without_what_is_secret(
    rule: Callable[[bytes], Any], expected: str, root: tuple[Party, Path]
) -> None:
    with serving(rule) as served:
        url = served.url.replace("http://", f"http://user:{WRITTEN}@") + "?key=a-long-key"
        with pytest.raises(StampError) as caught:
            request(DIGEST, url, 0.3 if rule is slow else 20.0)
    said = str(caught.value)
    assert said.startswith(f"time stamp asked of {served.url}: ")
    assert re.search(expected, said)
    assert "\n" not in said
    assert not re.search("hush|a-long-key|secret", said)
    assert len(served.asked) == 1, "no redirect was followed"
    assert served.asked[0][0]["Authorization"].startswith("Basic ")


def test_where_nothing_listens_is_told(root: tuple[Party, Path]) -> None:
    with serving(lambda _: (200, {}, b"")) as served:
        pass
    with pytest.raises(StampError, match=rf"{served.url}: Cannot connect to host .*; try again, or ask another authority"):
        request(DIGEST, served.url)


@pytest.mark.parametrize(
    "url", ["tsa.example.org", "ftp://a.org/", "http://", "http://a.org:x/", "http://a b.org/", "user:word@a.org"]
)
def test_an_address_that_is_none_is_said_beforehand(url: str, root: tuple[Party, Path]) -> None:
    with pytest.raises(ConfigError, match=r"expected an address such as https://tsa\.example\.org/tsr, not ") as caught:
        require_stamps(url)
    assert "word" not in str(caught.value)


def test_what_is_not_installed_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamp, "LIBRARIES", {"raymia": "raymia", "raymia_no_such_library": "no-such-library"})
    for act in (require_stamps, lambda: request(DIGEST, "http://127.0.0.1:1/"), lambda: read(b"", DIGEST)):
        with pytest.raises(ConfigError, match=r"^time stamps need no-such-library: pip install 'raymia\[evidence\]'$"):
            act()


def test_a_changed_byte_anywhere_is_found_with_a_root_and_without(authority: Authority, root: tuple[Party, Path]) -> None:
    answer = authority.stamp()
    assert isinstance(read(answer, DIGEST, root[1]), Stamp)
    version = answer.index(b"\x02\x01\x03\x31") + 2  # which no signature covers
    for place in (version, *range(0, len(answer), 9)):
        changed = answer[:place] + bytes([answer[place] ^ (1 << place % 8)]) + answer[place + 1 :]
        refused(changed, root[1] if place % 2 else None)
    assert refused(answer + b"0", root[1]) == "was changed: 1 bytes stand behind its end"
    assert refused(answer[:-1]).startswith("is no answer of RFC 3161, or was changed")
    assert refused(bytes(MAX_BYTES + 1)).startswith(f"has {MAX_BYTES + 1} bytes")
    assert refused(answer, root[1], hashlib.sha256(b"changed").digest()).startswith("is of another file")


def twin(of: Party, by: Party, **options: Any) -> Party:
    """Another certificate of the same issuer, number and length."""
    for _ in range(100):
        made = party(options["name"], by, authority=True, key=options.get("key"), serial=of.certificate.serial_number)
        if len(made.der()) == len(of.der()):
            return made
    raise AssertionError("a signature has one of three lengths")


def test_the_certificate_of_another_key_or_of_another_name_is_found(authority: Authority, root: tuple[Party, Path]) -> None:
    answer, signer = authority.stamp(), authority.signer
    other_key = answer.replace(signer.der(), twin(signer, root[0], name=signer.name).der())
    assert refused(other_key).startswith("was changed, or is not by CN=Authority of the test: its signature does not hold")
    other_name = answer.replace(signer.der(), twin(signer, root[0], name=signer.name.upper(), key=signer.key).der())
    assert refused(other_name) == "holds a certificate of CN=AUTHORITY OF THE TEST that is not the one that its signature names"
    for forged in (other_key, other_name):
        assert refused(forged, root[1])
        assert not openssl_agrees(forged, root[1])


def signed_anew(answer: bytes, before: Party, now: Party) -> bytes:
    """A time stamp whose signature is made again for another certificate of the same issuer and number."""
    response = decode(answer, asn1Spec=rfc3161.TimeStampResp())[0]
    signed = decode(bytes(response["timeStampToken"]["content"]), asn1Spec=rfc5652.SignedData())[0]
    signed["certificates"][0]["certificate"] = decode(now.der(), asn1Spec=rfc5280.Certificate())[0]
    signer = signed["signerInfos"][0]
    attributes = rfc5652.SignedAttributes()
    for attribute in signer["signedAttrs"]:
        old, new = (hashlib.sha256(one.der()).digest() for one in (before, now))
        attribute["attrValues"][0] = bytes(attribute["attrValues"][0]).replace(old, new)
        attributes.append(attribute)
    assert isinstance(now.key, ec.EllipticCurvePrivateKey)
    signer["signature"] = now.key.sign(encode(attributes), ec.ECDSA(hashes.SHA256()))
    response["timeStampToken"]["content"] = encode(signed)
    return bytes(encode(response))


def test_a_certificate_that_is_not_for_time_stamps_alone_is_refused(authority: Authority, root: tuple[Party, Path]) -> None:
    answer, signer = authority.stamp(), authority.signer
    serial, both = signer.certificate.serial_number, [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]
    for options in ({"uses": both}, {"critical": False}, {"uses": both[1:]}, {"authority": False}, {}):
        other = party("Any", root[0], **{"authority": True, "serial": serial, **options})
        made = signed_anew(answer, signer, other)
        assert openssl_agrees(made, root[1]) == (not options)
        if options:
            for roots in (root[1], None):
                assert refused(made, roots) == "is signed by CN=Any, whose certificate is not one for time stamps alone"
        else:
            assert read(made, DIGEST, root[1]).trusted


def test_a_root_that_is_not_the_authoritys_does_not_vouch_for_it(
    authority: Authority, root: tuple[Party, Path], tmp_path: Path
) -> None:
    answer = authority.stamp()
    foreign = tmp_path / "foreign.pem"
    for made in (party("Another root"), party("Root of the test")):
        foreign.write_bytes(made.pem())
        assert f"does not lead from CN=Authority of the test to a root in {foreign}" in refused(answer, foreign)
        assert not openssl_agrees(answer, foreign)
    foreign.write_bytes(made.pem(root[0]))
    assert read(answer, DIGEST, foreign).trusted, "of two of the same name, one does"


def test_a_file_of_roots_that_is_none_is_said_beforehand(
    root: tuple[Party, Path], authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "roots.pem"
    for content, what in (
        (None, "No such file"),
        (b"no PEM", "expected root certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "expected root certificates in PEM"),
        (authority.signer.pem(), "none of its 1 certificates is a root"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=what) as caught:
            require_stamps(roots=file)
        assert str(caught.value).startswith(f"{file}: ")
        with pytest.raises(ConfigError, match=what):
            read(authority.stamp() if content is None else b"", DIGEST, file)


def test_certificates_are_those_of_the_time_of_the_stamp_and_not_of_today(root: tuple[Party, Path], tmp_path: Path) -> None:
    roots = tmp_path / "brief.pem"
    for seconds in (2, 4, 8, 16):
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        brief = party("Brief root", ends=ends)
        roots.write_bytes(brief.pem())
        answer = Authority(tmp_path / str(seconds), party("Brief", brief, authority=True, ends=ends)).stamp()
        if datetime.now(UTC) < ends:
            break
    while datetime.now(UTC) <= ends + timedelta(seconds=1):
        time.sleep(0.05)
    stamp = read(answer, DIGEST, roots)
    assert stamp.trusted
    assert stamp.when <= ends
    assert not openssl_agrees(answer, roots), "openssl looks at today"
    assert openssl_agrees(answer, roots, at=stamp.when.timestamp())

    past = party("Past", root[0], authority=True, ends=datetime.now(UTC) - DAY)
    late = Authority(tmp_path / "past", past).stamp()
    for given in (root[1], None):
        assert re.search(r"^says .*, when the certificate of CN=Past was not valid: from .* to ", refused(late, given))
    over = party("Root that is over", ends=datetime.now(UTC) - DAY)
    roots.write_bytes(over.pem())
    under = Authority(tmp_path / "over", party("Under", over, authority=True)).stamp()
    assert "does not lead from CN=Under to a root" in refused(under, roots)
    assert not read(under, DIGEST).trusted


def test_a_registration_is_stamped_once_and_anybody_can_check_the_two_files(
    authority: Authority, root: tuple[Party, Path], audited: Path, tmp_path: Path
) -> None:
    shutil.copy(audited / REGISTRATION_FILE, tmp_path)
    storage = Storage(str(tmp_path))
    registration = read_registration(storage)
    assert registration is not None
    assert stamp_of(storage, registration) is None
    with serving(lambda query: (200, {}, authority.answer(query))) as served:
        with pytest.raises(ConfigError, match="holds scores already, so that a stamp of today would not show"):
            stamp(storage, registration, served.url, has_scores=True)
        given = stamp(storage, registration, served.url, has_scores=False)
        assert stamp(storage, registration, served.url, has_scores=True) == given
    assert len(served.asked) == 1, "the stamp that is there holds"
    checked = stamp_of(storage, registration, root[1])
    assert checked is not None
    assert (checked.trusted, checked.when, checked.authority) == (True, given.when, "CN=Authority of the test")
    words = ("-data", str(tmp_path / REGISTRATION_FILE), "-in", str(tmp_path / STAMP_FILE), "-CAfile", str(root[1]))
    assert subprocess.run(["openssl", "ts", "-verify", *words], capture_output=True, check=False).returncode == 0
    with pytest.raises(StampError, match=rf"{STAMP_FILE}: this time stamp is of another file or of another state of it"):
        stamp_of(storage, registration.model_copy(update={"significant": 0.1}))


def test_verify_checks_the_stamp_of_an_audit(
    authority: Authority, root: tuple[Party, Path], audited: Path, tmp_path: Path
) -> None:
    def verified(*words: str | Path) -> str:
        done = CliRunner().invoke(app, ["verify", *map(str, words), "--no-scores"])
        if isinstance(done.exception, RaymiaError):
            return str(done.exception)
        return f"{done.exit_code}: {' '.join(done.output.split())}"

    folder = tmp_path / "audit"
    shutil.copytree(audited, folder)
    assert f"holds no time stamp ({STAMP_FILE})" in verified(folder, "--roots", root[1])
    storage = Storage(str(folder))
    registration = read_registration(storage)
    assert registration is not None
    storage.write(STAMP_FILE, authority.stamp(bytes.fromhex(registration.digest())))
    seal(folder, "0", "fingerprint", {})
    printed = verified(folder, "--roots", root[1])
    assert printed.startswith("0: All ")
    assert "UTC by CN=Authority of the test; the signature holds, and its certificate leads to CN=Root of the test" in printed
    storage.write(STAMP_FILE, authority.stamp(DIGEST))
    changed = verified(folder)
    assert changed.startswith(f"1: {STAMP_FILE}: was changed")
    seal(folder, "0", "fingerprint", {})
    assert "this time stamp is of another file" in verified(folder)
