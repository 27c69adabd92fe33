"""A server on the loopback that speaks the protocol of the Hugging Face hub."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve_hub(repos: dict[str, dict[str, Path]]) -> Iterator[ThreadingHTTPServer]:
    """Serve repositories while the `with` block runs: name to revision to folder.

    The server keeps a list `asked` of requests; `cut` are names of files to cut once.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos = repos
    server.asked = []
    server.cut = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def reach_hub(server: ThreadingHTTPServer, cache: Path, endpoint: str = "") -> dict[str, str]:
    """Return the environment of a process that reaches this hub, or `endpoint`, and no other."""
    return {
        "HF_ENDPOINT": endpoint or f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }


class Hub(BaseHTTPRequestHandler):
    """Serve `server.repos`, name to revision to folder; `asked`: requests; `cut`: files to cut."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        api = path.startswith("api/")
        # Models have no prefix outside the API, data sets have one.
        words = path.removeprefix("api/models/").removeprefix("datasets/").split("/")
        name, revision = "/".join(words[:2]), words[3] if len(words) > 3 else "main"
        if name == "owner/gated":
            return self.refuse(403, "GatedRepo")
        if name not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        revisions = self.server.repos[name]
        commits = {hashlib.sha1(f"{name} {key}".encode()).hexdigest(): key for key in revisions}
        if (revision := commits.get(revision, revision)) not in revisions:
            return self.refuse(404, "RevisionNotFound")
        commit = next(sha for sha, key in commits.items() if key == revision)
        folder = revisions[revision]
        if api and words[2:3] == ["tree"]:
            body = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(folder.iterdir())
            ]
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        if api:
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            body = {"id": name, "modelId": name, "sha": commit, "siblings": files, "private": False}
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        return self.send(folder.joinpath(*words[4:]), commit)

    def send(self, file: Path, commit: str) -> None:
        if not file.exists():
            return self.refuse(404, "EntryNotFound")
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": tag, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.command == "GET" and file.name in self.server.cut:
            self.server.cut.remove(file.name)
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.answer(206 if first else 200, headers, content[first:])
