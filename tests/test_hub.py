# pytest tests/test_hub.py
"""Loading from the hub: a server on the loopback that speaks the hub's protocol.

What is asked for, what arrives, which error there is when it does not, and that an interrupted
download goes on.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers.pairs import ADAPTER
from safetensors.torch import load_file

from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder

CLIENT = """
import json, logging, sys
import huggingface_hub.constants
from nanos2t.model import SpeechEncoderDecoder
logging.disable()
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000  # as if the files were large
for name, options in json.loads(sys.argv[1]):
    try:
        model = SpeechEncoderDecoder.from_pretrained(name, **options)
        print(json.dumps(float(sum(part.detach().double().sum() for part in model.parameters()))))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


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
        api = path.startswith("api/models/")
        words = path.removeprefix("api/models/").split("/")
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
        return self.send(folder / words[-1], commit)

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


def model(seed: int) -> SpeechEncoderDecoder:
    torch.manual_seed(seed)
    decoder = DecoderConfig.bert(
        23, hidden_size=14, num_layers=1, num_heads=2, intermediate_size=9, max_positions=11
    )
    return SpeechEncoderDecoder.from_configs(ADAPTER, decoder)


def total(one: SpeechEncoderDecoder) -> float:
    return float(sum(part.detach().double().sum() for part in one.parameters()))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    for number, name in enumerate(("main", "v1", "bin")):
        model(number).save_pretrained(root / name)
        for other in ("tf_model.h5", "flax_model.msgpack", "training_args.bin", "README.md"):
            (root / name / other).write_bytes(b"not for us")
    for name in ("main", "bin"):
        torch.save(load_file(root / name / "model.safetensors"), root / name / "pytorch_model.bin")
    (root / "bin/model.safetensors").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos = {
        "owner/model": {"main": root / "main", "v1": root / "v1"},
        "owner/bin": {"main": root / "bin"},
        "owner/cut": {"main": root / "main"},
    }
    server.asked, server.cut = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def ask(hub, tmp_path):
    """Loads in one new process, as the hub's address is read at import: what each gave, or said."""

    def ask(*calls: tuple[str, dict], endpoint: str = "", **environment: str) -> list:
        hub.asked.clear()
        run = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(calls)],
            capture_output=True, text=True, check=True,
            env=os.environ | {
                "HF_ENDPOINT": endpoint or f"http://127.0.0.1:{hub.server_port}",
                "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
                **environment,
            },
        )  # fmt: skip
        return [json.loads(line) for line in run.stdout.splitlines()]

    return ask


def fetched(hub) -> set[str]:
    return {
        path.split("/")[-1]
        for command, path, _ in hub.asked
        if command == "GET" and "resolve" in path
    }


def test_only_what_is_read_is_fetched_and_kept(hub, ask):
    assert ask(("owner/model", {})) == [total(model(0))]
    assert fetched(hub) == {"config.json", "generation_config.json", "model.safetensors"}
    offline, again = ask(("owner/model", {"local_files_only": True}), ("owner/model", {}))
    assert offline == again == total(model(0)) and not fetched(hub)
    assert ask(("owner/model", {}), HF_HUB_OFFLINE="1") == [total(model(0))] and not hub.asked


def test_a_revision_and_a_pickle(hub, ask):
    first, second, missing = ask(
        ("owner/model", {"revision": "v1"}), ("owner/bin", {}), ("owner/model", {"revision": "v9"})
    )
    assert (first, second) == (total(model(1)), total(model(2)))
    assert fetched(hub) == {
        "config.json", "generation_config.json", "model.safetensors", "pytorch_model.bin",
    }  # fmt: skip
    assert "owner/model" in missing and "no revision 'v9'" in missing and "\n" not in missing


def test_what_is_not_there_is_said_in_a_line(ask):
    nowhere, gated, offline = ask(
        ("owner/nothing", {}), ("owner/gated", {}), ("owner/model", {"local_files_only": True})
    )
    assert nowhere.startswith("owner/nothing: ") and "no such public repository" in nowhere
    assert gated.startswith("owner/gated: ") and "access to it must be granted" in gated
    assert offline.startswith("owner/model: ") and "not in the cache" in offline
    assert not any("\n" in text for text in (nowhere, gated, offline))


def test_no_network(ask):
    (results,) = ask(("owner/model", {}), endpoint="http://127.0.0.1:9")
    assert results.startswith("owner/model: ") and "\n" not in results
    assert "not reached" in results


def test_an_interrupted_download_goes_on_where_it_stopped(hub, ask):
    hub.cut.append("model.safetensors")
    assert ask(("owner/cut", {})) == [total(model(0))]
    ranges = [
        found for command, path, found in hub.asked if command == "GET" and "model.safe" in path
    ]
    size = (hub.repos["owner/cut"]["main"] / "model.safetensors").stat().st_size
    assert (
        ranges[0] is None and 0 < int(ranges[1].removeprefix("bytes=").split("-")[0]) <= size // 2
    )


def test_a_file_that_is_cut_in_the_cache_is_named(hub, ask, tmp_path):
    ask(("owner/model", {}))
    blobs = sorted((tmp_path / "cache").rglob("blobs/*"), key=lambda path: path.stat().st_size)
    shutil.copy(blobs[-1], whole := tmp_path / "whole")
    blobs[-1].write_bytes(whole.read_bytes()[:1000])
    (results,) = ask(("owner/model", {"local_files_only": True}))
    assert "model.safetensors: " in results and "expected a file of tensors" in results
