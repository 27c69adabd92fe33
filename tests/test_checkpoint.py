# pytest tests/test_checkpoint.py
"""nanos2t/checkpoint.py: safetensors, pickles and shards; folders, and what is asked of the hub."""

import json
import tarfile
from pathlib import Path

import huggingface_hub
import pytest
import torch
from helpers.pairs import ADAPTER
from helpers.saved_pair import inputs, refuse, same_weights, save_pair
from safetensors.torch import load_file, save_file

from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")
CONFIGS = Path(__file__).parent / "data/configs"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny pair as transformers saves it, to be changed."""
    return save_pair(tmp_path / "pair")


def test_a_failed_save_leaves_the_old_files(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, **options):
        (Path(path) / "model.safetensors").write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", full)
    with pytest.raises(ValueError, match="cannot write there .*No space left"):
        SpeechEncoderDecoder.from_pretrained(folder).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_several_files(folder):
    expected = SpeechEncoderDecoder.from_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(tensors)
    }
    for place in set(places.values()):
        save_file({name: tensors[name] for name in places if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder), expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(
        folder, "model-00002-of-00002.safetensors: ", "No such file", "expected a file of tensors"
    )
    (folder / "model.safetensors.index.json").write_text("{}")
    refuse(folder, "model.safetensors.index.json: no weight_map")


def test_shards_are_written_read_and_replaced(folder, tmp_path):
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    (folder / "model-of-mine.safetensors").write_bytes(b"kept")
    model.save_pretrained(folder, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = {*index["weight_map"].values()}
    assert len(shards) > 1 and not (folder / "model.safetensors").exists()
    assert shards == {path.name for path in folder.glob("model-0*.safetensors")}
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), model)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float64
    )
    assert not any(report.values())
    waveform, ids = inputs()
    expected = theirs(input_values=waveform, decoder_input_ids=ids).logits
    assert torch.allclose(
        model(waveform, decoder_input_ids=ids).logits, expected, rtol=0, atol=1e-10
    )
    model.save_pretrained(folder)
    assert not [*folder.glob("model-0*")] and not (folder / "model.safetensors.index.json").exists()
    assert (folder / "model-of-mine.safetensors").read_bytes() == b"kept"
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), model)


def pickled(folder, tensors, name: str = "pytorch_model.bin", **options) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(tensors, folder / name, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle(folder, zipped):
    expected = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    pickled(folder, load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=zipped)
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), expected)


def test_pickles_in_shards(folder):
    expected = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places = {name: f"pytorch_model-0000{1 + (name > names[9])}-of-00002.bin" for name in names}
    for place in set(places.values()):
        pickled(folder, {name: tensors[name] for name in names if places[name] == place}, place)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same_weights(SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64), expected)
    index.write_text(json.dumps({"weight_map": places | {names[0]: "../pytorch_model.bin"}}))
    refuse(folder, "pytorch_model.bin.index.json: names the file '../pytorch_model.bin'")
    pickled(folder, tensors, "pytorch_model-00001-of-00002.bin")
    index.write_text(json.dumps({"weight_map": places}))
    refuse(folder, "pytorch_model-00002-of-00002.bin: has ", "as another file")


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("was_run"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_run(folder, zipped, monkeypatch):
    monkeypatch.chdir(folder)
    tensors = load_file(folder / "model.safetensors")
    pickled(folder, {**tensors, "code": Hostile()}, _use_new_zipfile_serialization=zipped)
    refuse(
        folder, "pytorch_model.bin: holds more than tensors or is damaged, nothing of it was run"
    )
    assert not (folder / "was_run").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 3}, torch.zeros(3), {"a": torch.ones(2).to_sparse()}]
)
def test_a_pickle_of_something_else(folder, content):
    pickled(folder, content)
    refuse(folder, "pytorch_model.bin: ", "expected a dict of tensors")


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_tar_archive_is_not_unpacked(folder, is_empty, monkeypatch):
    """Zeros are an empty archive. torch would make a temporary folder for it."""
    monkeypatch.setattr("tempfile.mkdtemp", None)
    path = folder / "pytorch_model.bin"
    path.write_bytes(bytes(100_000))
    if not is_empty:
        with tarfile.open(path, "w") as archive:
            archive.add(folder / "config.json", "storages")
    (folder / "model.safetensors").unlink()
    refuse(folder, "pytorch_model.bin: a tar archive, expected a file of tensors")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", [0, 7, 30, 1000, -1])  # 30: inside the length of the first name
def test_a_truncated_pickle(folder, size, zipped):
    pickled(folder, load_file(folder / "model.safetensors"), _use_new_zipfile_serialization=zipped)
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[:size])
    refuse(folder, "pytorch_model.bin: ")


def test_truncated_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    for size in (7, 100, len(content) // 2, len(content) - 1):
        (folder / "model.safetensors").write_bytes(content[:size])
        refuse(folder, "model.safetensors: ", "expected a file of tensors")


def test_only_another_framework(folder):
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")
    refuse(folder, f"{folder}: expected one of model.safetensors, ", "found flax_model.msgpack")


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    decoder = DecoderConfig.bert(9, hidden_size=28, num_layers=1, num_heads=4)
    with pytest.raises(ValueError, match="file: no such folder"):
        SpeechEncoderDecoder.from_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="file: cannot write there"):
        SpeechEncoderDecoder.from_configs(ADAPTER, decoder).save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nowhere", "a b", "-x"])
def test_no_such_folder(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)  # is not asked
    with pytest.raises(
        ValueError, match=f"^{name}: no such folder, expected one with a config.json, or a hub id"
    ):
        SpeechEncoderDecoder.from_pretrained(name)


def test_the_hub(folder, monkeypatch):
    def download(name, **options):
        asked.append((name, options))
        return str(folder)

    asked, options = [], {"revision": "main", "local_files_only": True}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    SpeechEncoderDecoder.from_pretrained("owner/model", **options)
    files = ["*.json", "*.txt", "*.model"]
    wanted = {**options, "allow_patterns": [*files, "model*.safetensors"]}
    assert asked == [("owner/model", wanted)]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    SpeechEncoderDecoder.from_pretrained("owner/model", **options)
    assert asked[1:] == [
        ("owner/model", wanted),
        ("owner/model", {**options, "allow_patterns": [*files, "pytorch_model*.bin"]}),
    ]


def test_the_hub_has_nothing(monkeypatch, tmp_path):
    from huggingface_hub.errors import LocalEntryNotFoundError

    for error in LocalEntryNotFoundError("not on disk\nand no network"), ValueError("bad name"):

        def fail(name, error=error, **options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(
            ValueError, match=r"^owner/model: no such folder, and not from the hub: [^\n]+$"
        ):
            SpeechEncoderDecoder.from_pretrained("owner/model", local_files_only=True)
