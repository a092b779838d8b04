"""Downloads of corpora from a server: broken connections, checksums, and archives that would leave their folder."""

import functools
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sqloss_plugins.data.corpora import CORPORA, an4, librispeech
from sqloss_plugins.data.corpora.download import fetch, unpack
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.preparation import download_corpus, download_text

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves files by name; breaks a connection off after so many bytes."""

    def __init__(self, files, asked, breaks_off, takes_ranges, *rest):
        self.files, self.asked, self.breaks_off, self.takes_ranges = files, asked, breaks_off, takes_ranges
        super().__init__(*rest)

    def do_GET(self):
        content = self.files.get(self.path.rpartition("/")[2])
        wanted = self.headers.get("Range") if self.takes_ranges else None
        self.asked.append((self.path, self.headers.get("Range")))
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = self.breaks_off.pop() if self.breaks_off else None
        self.wfile.write(content[start : start + limit if limit else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """A function that starts a server, and returns its URL and the list of what it is asked."""
    servers = []

    def start(files, breaks_off=(), takes_ranges=True):
        asked = []
        handler = functools.partial(Server, files, asked, list(breaks_off), takes_ranges)
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_download_that_broke_off_goes_on(takes_ranges, serve, tmp_path):
    url, asked = serve({"x": CONTENT}, [400_000], takes_ranges)
    path = tmp_path / "new/x"
    with pytest.raises(OSError, match="broke off after 400000 of 1280000 bytes"):
        fetch(f"{url}/x", path, MD5)
    assert not path.exists()
    fetch(f"{url}/x", path, MD5)
    assert path.read_bytes() == CONTENT
    assert asked == [("/x", None), ("/x", "bytes=400000-")]
    fetch(f"{url}/x", path, MD5)
    assert len(asked) == 2  # it is there
    assert list(path.parent.iterdir()) == [path]


def test_the_language_models_text_goes_on_where_it_broke_off(serve, tmp_path):
    url, asked = serve({"text.gz": CONTENT}, [400_000])
    path = tmp_path / "downloads/text.gz"
    with pytest.raises(UserError, match=r"the download of http.* failed: .* broke off after 400000 of 1280000 bytes"):
        download_text(f"{url}/text.gz", path)
    assert not path.exists()
    download_text(f"{url}/text.gz", path)
    assert path.read_bytes() == CONTENT
    assert asked[1:] == [("/text.gz", "bytes=400000-")]


def test_a_download_that_was_killed_at_its_end(serve, tmp_path):
    url, _ = serve({"x": CONTENT})
    partial = tmp_path / ".x.partial"
    partial.write_bytes(CONTENT)
    fetch(f"{url}/x", tmp_path / "x", MD5)
    assert (tmp_path / "x").read_bytes() == CONTENT
    longer = tmp_path / ".y.partial"
    longer.write_bytes(CONTENT + b"more")
    with pytest.raises(OSError, match="is damaged: it has not the checksum or size"):
        fetch(f"{url}/x", tmp_path / "y")
    fetch(f"{url}/x", tmp_path / "y")  # anew
    assert (tmp_path / "y").read_bytes() == CONTENT


def test_what_has_another_checksum_is_not_taken(serve, tmp_path):
    url, _ = serve({"x": CONTENT[1:]})
    with pytest.raises(OSError, match="is damaged"):
        fetch(f"{url}/x", tmp_path / "x", MD5)
    assert list(tmp_path.iterdir()) == []  # nothing to go on with
    (tmp_path / "x").write_bytes(b"of another time")
    with pytest.raises(OSError, match="is damaged"):
        fetch(f"{url}/x", tmp_path / "x", MD5)
    with pytest.raises(OSError, match="404"):
        fetch(f"{url}/nothing", tmp_path / "z")


def archive(members):
    """A tar archive: name -> content, or the target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("members", [{"../out": b"x"}, {"a": "../..", "a/out": b"x"}, {"a": "/etc/passwd"}])
def test_nothing_is_unpacked_outside(members, tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(archive(members))
    with pytest.raises(OSError, match=r"x\.tar\.gz cannot be unpacked, remove it: "):
        unpack(path, tmp_path / "in/here")
    assert not list(tmp_path.rglob("out"))


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "x.tar.gz"
    whole = archive({"a": bytes(100_000) + CONTENT})
    for content in (b"no archive", whole[:-1000], whole[:200] + b"?" * 100 + whole[300:]):
        path.write_bytes(content)
        with pytest.raises(OSError, match="cannot be unpacked"):
            unpack(path, tmp_path / "in")


def test_librispeech_is_checked_and_unpacked_anew(serve, tmp_path, monkeypatch, capsys):
    files = {f"{name}.tar.gz": archive({f"LibriSpeech/{name}/whole": b"x"}) for name in ("dev-clean", "test-clean")}
    url, asked = serve(files)
    monkeypatch.setattr(librispeech, "SERVER", url)
    corpus = CORPORA["librispeech"]
    with pytest.raises(UserError, match=r"the download to .* failed: .*dev-clean\.tar\.gz is damaged.*; begin again"):
        download_corpus(corpus, ["dev-clean"], tmp_path)
    sums = {name.removesuffix(".tar.gz"): hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(librispeech, "MD5", sums)
    cut = tmp_path / "LibriSpeech/dev-clean/1/2"  # of an unpacking that was killed
    cut.mkdir(parents=True)
    asked.clear()
    corpus.download(["dev-clean", "test-clean"], tmp_path)
    assert len(asked) == 2
    assert sorted(path.name for path in tmp_path.rglob("whole")) == ["whole", "whole"]
    assert not cut.exists()
    (tmp_path / "LibriSpeech/dev-clean/whole").unlink()
    corpus.download(["dev-clean"], tmp_path)
    assert not (tmp_path / "LibriSpeech/dev-clean/whole").exists()  # it was complete: nothing is done
    with pytest.raises(UserError, match="LibriSpeech has no subset test-cleen: choose from train-clean-100, "):
        corpus.download(["dev-clean", "test-cleen"], tmp_path)


def test_an4_is_one_archive(serve, tmp_path, monkeypatch):
    url, asked = serve({"an4_sphere.tar.gz": archive({"an4/etc/an4_test.transcription": b"x"})})
    monkeypatch.setattr(an4, "SOURCE", f"{url}/an4_sphere.tar.gz")
    for _ in range(2):
        assert CORPORA["an4"].download(["train"], tmp_path) == tmp_path
    assert (tmp_path / "an4/etc/an4_test.transcription").read_bytes() == b"x"
    assert len(asked) == 1
