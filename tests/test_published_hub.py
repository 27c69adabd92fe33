# pytest -m hub tests/test_published_hub.py          (with NANOS2T_HUB=1 in the environment)
"""Published checkpoints of the hub: what transformers' own tests expect of them.

The answers are in data/published_answers.json, or in the file that NANOS2T_ANSWERS names: with it,
test_published_on_loopback.py runs these tests where the hub is not reached.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers.paths import DATA

import nanos2t
from nanos2t import checkpoint, files, pretrained, remap
from nanos2t.audio import load_audio, normalise
from nanos2t.wav2vec2 import Encoder

ANSWERS = json.loads(
    Path(os.environ.get("NANOS2T_ANSWERS", DATA / "published_answers.json")).read_text("utf-8")
)

pytestmark = pytest.mark.hub


@pytest.mark.parametrize("name", ANSWERS["sentences"])
def test_sentences_of_published_models(name, librispeech):
    answer = ANSWERS["sentences"][name]
    stt = nanos2t.load(name)
    result = stt.transcribe(librispeech(answer["utterance"]), language=answer["language"])
    assert result.text.strip() == answer["text"]


@torch.no_grad()
def test_hidden_states_of_distilhubert(librispeech):
    """The slices that transformers' tests hold, to their tolerance."""
    answer = ANSWERS["distilhubert"]
    expected = torch.tensor(answer["frames"])
    folder = checkpoint.find_folder("ntu-spml/distilhubert")
    config = files.read_json(folder / "config.json")
    encoder = Encoder(pretrained.read_part(config, "encoder", "config.json: ")[1]).eval()
    table = remap.read_table("hubert")
    theirs = remap.inside_pair(checkpoint.read_tensors(folder)[1], table)
    state = remap.import_state(table.tensors, theirs, encoder.state_dict())
    encoder.load_state_dict(state, strict=False)
    waveform = normalise(load_audio(librispeech(answer["utterance"]), 16000))
    frames = encoder(torch.tensor(waveform)[None])[0]
    assert torch.allclose(frames[0, :4, :4], expected, rtol=5e-3, atol=5e-3)
    assert abs(frames.sum().item() - answer["sum"]) < 0.1


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """Utterances of librispeech_asr_dummy by id, from the hub; skipped where it is not reached."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            "hf-internal-testing/librispeech_asr_dummy", "clean/validation-00000-of-00001.parquet",
            repo_type="dataset",
        )  # fmt: skip
    except Exception as error:
        pytest.skip(f"the hub is out of reach: {type(error).__name__}")
    rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    folder = tmp_path_factory.mktemp("speech")

    def utterance(name: str) -> str:
        file = folder / f"{name}.flac"
        file.write_bytes(next(row for row in rows if row["id"] == name)["audio"]["bytes"])
        return str(file)

    return utterance
