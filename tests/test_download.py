"""The download, against a small server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from build_engines.checkpoint import CONFIG_FILES, WEIGHTS_FILES
from build_engines.download import REPOSITORY, REVISION

NEEDED_FILES = {name: f"content of {name}".encode() * 100 for name in (*CONFIG_FILES, *WEIGHTS_FILES)}
OTHER_FILES = {"README.md": b"about", "src/logo/logo.png": b"a picture"}


class FakeHub(ThreadingHTTPServer):
    """Serves `files` as the hub serves the pinned revision; remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = NEEDED_FILES | OTHER_FILES
        self.has_repository = True
        self.fetched: list[str] = []
        self.authorizations: set[str | None] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.server.authorizations.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        file_name = path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/")
        if not self.server.has_repository:
            self.send_error(401)
        elif path == f"/api/models/{REPOSITORY}/tree/{REVISION}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in self.server.files.items()
            ]
            self._send(json.dumps(tree).encode(), "application/json", with_body)
        elif file_name in self.server.files:
            if with_body:
                self.server.fetched.append(file_name)
            self._send(self.server.files[file_name], "application/octet-stream", with_body)
        else:
            self.send_error(404)

    def _send(self, content: bytes, content_type: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is not the place."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def download(output_dir: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Download in a process of its own: the hub's client reads its variables when it is imported."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import pathlib, sys; from build_engines import download;"
            "download.download_checkpoint(pathlib.Path(sys.argv[1]))",
            str(output_dir),
        ],
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(output_dir.parent / "hf")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def files_in(directory: Path) -> set[str]:
    files = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    return {str(path) for path in files if path.parts[0] != ".cache"}


def test_needed_files_of_the_pinned_revision_are_fetched_and_no_others(hub: FakeHub, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"

    result = download(checkpoint, hub.endpoint)

    assert result.returncode == 0, result.stderr
    assert files_in(checkpoint) == set(NEEDED_FILES)
    assert all((checkpoint / name).read_bytes() == content for name, content in NEEDED_FILES.items())
    assert "CC BY-NC-SA 4.0" in result.stdout


def test_second_run_fetches_only_what_is_missing(hub: FakeHub, tmp_path: Path) -> None:
    checkpoint, lost = tmp_path / "checkpoint", WEIGHTS_FILES[0]
    download(checkpoint, hub.endpoint)
    (checkpoint / lost).unlink()
    hub.fetched.clear()

    result = download(checkpoint, hub.endpoint)

    assert result.returncode == 0, result.stderr
    assert hub.fetched == [lost]


def test_token_of_the_environment_is_sent(hub: FakeHub, tmp_path: Path) -> None:
    download(tmp_path / "checkpoint", hub.endpoint, HF_TOKEN="hf_of_a_test")

    assert "Bearer hf_of_a_test" in hub.authorizations


def test_file_that_the_server_lacks_is_named(hub: FakeHub, tmp_path: Path) -> None:
    lacking = WEIGHTS_FILES[0]
    del hub.files[lacking]

    result = download(tmp_path / "checkpoint", hub.endpoint)

    assert result.returncode != 0
    assert f"DownloadError: {REPOSITORY} came without {lacking}" in result.stderr


def test_refusal_of_the_server_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.has_repository = False

    result = download(tmp_path / "checkpoint", hub.endpoint)

    assert result.returncode != 0
    assert f"DownloadError: {REPOSITORY} at {REVISION} was refused" in result.stderr


def test_unreachable_server_is_named(tmp_path: Path) -> None:
    # Offline mode, because the client's own retries would take half a minute.
    result = download(tmp_path / "checkpoint", "http://hub.invalid", HF_HUB_OFFLINE="1")

    assert result.returncode != 0
    assert f"DownloadError: {REPOSITORY} could not be fetched from http://hub.invalid" in result.stderr
