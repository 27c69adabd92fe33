# pytest tests/test_hub.py
"""Loading from the hub: a server on the loopback that speaks the hub's protocol.

What is asked for, what arrives, which error there is when it does not, and that an interrupted
download goes on.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.loopback_hub import reach_hub, serve_hub
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
    repos = {
        "owner/model": {"main": root / "main", "v1": root / "v1"},
        "owner/bin": {"main": root / "bin"},
        "owner/cut": {"main": root / "main"},
    }
    with serve_hub(repos) as server:
        yield server


@pytest.fixture
def ask(hub, tmp_path):
    """Loads in one new process, as the hub's address is read at import: what each gave, or said."""

    def ask(*calls: tuple[str, dict], endpoint: str = "", **environment: str) -> list:
        hub.asked.clear()
        run = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(calls)],
            capture_output=True, text=True, check=True,
            env=os.environ | reach_hub(hub, tmp_path / "cache", endpoint) | environment,
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
