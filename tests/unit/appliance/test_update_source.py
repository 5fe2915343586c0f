# SPDX-License-Identifier: Apache-2.0
"""Bundles from files, from media and from an https server on loopback with a certificate of its own."""

from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from appliance.update import source
from appliance.update.bundle import FILES, BundleReader, Manifest
from gateway.errors import AuthError, HostError, JumpError, NotFound, ProtocolError, Refused, UsageError
from tests.unit.appliance.updating import PUBLIC, make_bundle, quiet


def taken(reader: BundleReader) -> list[str]:
    """Read everything; the names."""
    return [entry.name for entry, chunks in reader.files() if [*chunks]]


def agrees(_manifest: Manifest) -> None:
    """No objection."""


def objects(_manifest: Manifest) -> None:
    raise Refused("too old")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)


def test_a_file_is_good_once_before_it_is_used(bundle: Path) -> None:
    with source.from_file(bundle, PUBLIC, agrees, quiet) as reader:
        assert taken(reader) == list(FILES)


def test_a_damaged_file_never_reaches_its_user(bundle: Path) -> None:
    damage(bundle)
    with pytest.raises(ProtocolError), source.from_file(bundle, PUBLIC, agrees, quiet):
        pytest.fail("a damaged bundle was handed out")


def test_an_objection_comes_before_the_rest_is_read(bundle: Path) -> None:
    damage(bundle)
    with pytest.raises(Refused, match="too old"), source.from_file(bundle, PUBLIC, objects, quiet):
        pytest.fail("a refused bundle was handed out")


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, error in ((tmp_path / "none", NotFound), (tmp_path, NotFound), (Path("/dev/null"), UsageError)):
        with pytest.raises(error), source.from_file(path, PUBLIC, agrees, quiet):
            pytest.fail("that is no bundle")


def test_a_medium_holds_one_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="found: none"):
        source.on_medium(tmp_path)
    (tmp_path / "one.jvpnup").touch()
    (tmp_path / "readme.txt").touch()
    assert source.on_medium(tmp_path) == tmp_path / "one.jvpnup"
    (tmp_path / "two.jvpnup").touch()
    with pytest.raises(NotFound, match=r"found: one\.jvpnup, two\.jvpnup"):
        source.on_medium(tmp_path)


@pytest.mark.parametrize(
    "url",
    ["http://example.net/u.jvpnup", "ftp://example.net/u", "file:///etc/passwd", "https:///u", "HTTP://x/"],
)
def test_only_https_is_fetched(url: str, tmp_path: Path) -> None:
    assert source.is_address(url)
    with pytest.raises(Refused, match="https"), source.from_address(url, PUBLIC, agrees, quiet, tmp_path):
        pytest.fail("fetched")


# --- a server ------------------------------------------------------------------------------------------------------

HOST: Final = "127.0.0.1"


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of the server's folder; ``/away/URL`` sends elsewhere, ``/half/FILE`` hangs up in the middle."""

    server: Server

    def do_GET(self) -> None:
        _, word, rest = self.path.split("/", 2) if self.path.count("/") > 1 else ("", "", self.path[1:])
        if word == "away":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
            return
        data = (self.server.folder / rest).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if word == "half" else data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    """https on a port of loopback."""

    def __init__(self, folder: Path, certificate: Path, key: Path) -> None:
        super().__init__((HOST, 0), Handler)
        self.folder = folder
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def url(self, path: str) -> str:
        return f"https://{HOST}:{self.server_port}/{path}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=update", "-addext", f"subjectAltName=IP:{HOST}"]
    subprocess.run([*words, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    return made


@pytest.fixture
def server(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Server]:
    folder = tmp_path / "www"
    folder.mkdir()
    with Server(folder, *certificate) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def trust(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


def test_a_bundle_comes_from_a_server(
    server: Server, trust: ssl.SSLContext, bundle: Path, tmp_path: Path
) -> None:
    shutil.copy(bundle, server.folder / "u.jvpnup")
    waits = tmp_path / "waits"
    with source.from_address(server.url("u.jvpnup"), PUBLIC, agrees, quiet, waits, trust) as reader:
        assert taken(reader) == list(FILES)
    assert list(waits.iterdir()) == [], "nothing is left behind"


def test_without_room_it_is_used_as_it_comes(
    server: Server, trust: ssl.SSLContext, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_KEPT_FREE_BYTES", 1 << 60)
    shutil.copy(bundle, server.folder / "u.jvpnup")
    with source.from_address(server.url("u.jvpnup"), PUBLIC, agrees, quiet, tmp_path / "w", trust) as reader:
        assert taken(reader) == list(FILES)


def test_a_download_that_breaks_off_never_reaches_its_user(
    server: Server, trust: ssl.SSLContext, bundle: Path, tmp_path: Path
) -> None:
    shutil.copy(bundle, server.folder / "u.jvpnup")
    with (
        pytest.raises(JumpError, match=r"cut off|broke off"),
        source.from_address(server.url("half/u.jvpnup"), PUBLIC, agrees, quiet, tmp_path / "w", trust),
    ):
        pytest.fail("half a bundle was handed out")


def test_who_is_not_known_is_not_believed(server: Server, bundle: Path, tmp_path: Path) -> None:
    shutil.copy(bundle, server.folder / "u.jvpnup")
    with (
        pytest.raises(HostError, match="certificate"),
        source.from_address(server.url("u.jvpnup"), PUBLIC, agrees, quiet, tmp_path / "w"),
    ):
        pytest.fail("an unknown server was believed")


def test_a_redirection_stays_within_tls(
    server: Server, trust: ssl.SSLContext, bundle: Path, tmp_path: Path
) -> None:
    shutil.copy(bundle, server.folder / "u.jvpnup")
    url = server.url(f"away/{server.url('u.jvpnup')}")
    with source.from_address(url, PUBLIC, agrees, quiet, tmp_path / "w", trust) as reader:
        assert taken(reader) == list(FILES)
    url = server.url("away/http://127.0.0.1:9/u.jvpnup")
    with pytest.raises(Refused), source.from_address(url, PUBLIC, agrees, quiet, tmp_path / "w", trust):
        pytest.fail("it left TLS")


def test_a_server_that_sends_something_else_fills_no_disk(
    server: Server, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    (server.folder / "u.jvpnup").write_bytes(bytes(4 << 20))
    with (
        pytest.raises((ProtocolError, AuthError)),
        source.from_address(server.url("u.jvpnup"), PUBLIC, agrees, quiet, tmp_path / "w", trust),
    ):
        pytest.fail("zeros are no bundle")
    assert not (tmp_path / "w").exists()
