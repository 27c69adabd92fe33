# pytest tests/test_families.py
# python tests/test_families.py prints the table of tutorials/checkpoints.md
"""weights_map/: every encoder with every decoder gives transformers' numbers and files.

The oracle for speech_to_text_2, which transformers no longer has, is TrOCRForCausalLM under other
names.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.numbers import SAMPLES, assert_same_numbers, batch
from helpers.pairs import ADAPTER, DECODERS, ENCODERS, pair_of, s2t_folder
from safetensors.torch import load_file

from nanos2t import pretrained, remap
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

hf = pytest.importorskip("transformers")
CHECKPOINTS = (Path(__file__).parents[1] / "tutorials" / "checkpoints.md").read_text()


def numbers_and_files(encoder: str, decoder: str, folder: Path) -> None:
    theirs = pair_of(encoder, decoder)
    theirs.save_pretrained(folder)
    ours = SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    assert_same_numbers(theirs, ours)
    ours.save_pretrained(folder / "again")
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(folder / "again/model.safetensors"),
    )
    if decoder.startswith("trocr"):  # transformers leaves its table of positions on the meta device
        again = (
            hf.SpeechEncoderDecoderModel(hf.AutoConfig.from_pretrained(folder / "again"))
            .double()
            .eval()
        )
        lost = again.load_state_dict(after, strict=False)
        again.decoder.tie_weights()
        assert not lost.unexpected_keys and set(lost.missing_keys) <= {
            "decoder.output_projection.weight"
        }
    else:
        again, report = hf.SpeechEncoderDecoderModel.from_pretrained(
            folder / "again", output_loading_info=True, dtype=torch.float64
        )
        assert not any(report.values())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_same_numbers(again, ours)


QUICK = [("base", decoder) for decoder in DECODERS] + [(encoder, "mbart") for encoder in ENCODERS]
EVERY = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in EVERY],
)
def test_every_pair(encoder, decoder, tmp_path):
    numbers_and_files(encoder, decoder, tmp_path)


SEARCHES = [
    {"no_repeat_ngram_size": 1},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2, "forced_bos_token_id": 7},
    {"do_sample": True, "num_return_sequences": 4, "temperature": 9.0},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_says_what_transformers_says(decoder, tmp_path):
    """Greedy, beams and sampling, item by item; pads, numbered otherwise, must not be generated."""
    theirs = pair_of("base", decoder)
    theirs.save_pretrained(tmp_path)
    ours, (waveforms, _, _) = (
        SpeechEncoderDecoder.from_pretrained(tmp_path, dtype=torch.float64),
        batch(),
    )
    words = set()
    for options in SEARCHES:
        options = options | {"max_length": 12, "suppress_tokens": [1]}
        for i, samples in enumerate(SAMPLES):
            alone = waveforms[i : i + 1, :samples]
            torch.manual_seed(i)
            expected = theirs.generate(alone, **options)
            torch.manual_seed(i)
            assert ours.generate(alone, **options).tolist() == expected.tolist()
            words |= {tuple(row) for row in expected.tolist()}
    assert len(words) > 10


@pytest.mark.parametrize("encoder", ["base", "xls-r with adapter"])
def test_speech_to_text_2(encoder, tmp_path):
    """Its oracle has the same weights; its own folder is read, and written as it was."""
    theirs = pair_of(encoder, "trocr, sinusoidal, untied")
    s2t_folder(theirs, tmp_path)
    ours = SpeechEncoderDecoder.from_pretrained(tmp_path, dtype=torch.float64)
    assert ours.families[1] == "speech_to_text_2"
    assert_same_numbers(theirs, ours)
    ours.save_pretrained(tmp_path / "again")
    before = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    after = load_file(tmp_path / "again/model.safetensors")
    computed = "decoder.model.decoder.embed_positions.weights"
    renamed = {name for name in before if name.endswith(("weight_g", "weight_v"))}
    assert before.keys() - after.keys() == {computed, *renamed}
    assert all(torch.equal(before[name], after[name]) for name in after.keys() & before.keys())
    assert_same_numbers(
        theirs, SpeechEncoderDecoder.from_pretrained(tmp_path / "again", dtype=torch.float64)
    )


# --- presets and published configs


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "mbart"])
def test_a_preset_is_saved_as_its_family(name, tmp_path):
    preset = getattr(DecoderConfig, name)
    config = preset(
        23, hidden_size=12, num_layers=1, num_heads=2, intermediate_size=9, max_positions=11
    )
    encoder = replace(ADAPTER, adapter_layers=0)
    model = SpeechEncoderDecoder.from_configs(encoder, config)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["decoder"]["model_type"] == name
    again = SpeechEncoderDecoder.from_pretrained(tmp_path)
    assert again.decoder.config == config
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_presets_have_the_published_sizes():
    """Parameters of transformers' models with cross-attention, at the families' usual sizes."""
    for name, sizes in {
        "bert": {}, "gpt2": {},
        "bart": {
            "d_model": 768, "decoder_layers": 6,
            "decoder_ffn_dim": 3072, "decoder_attention_heads": 12,
        },
        "mbart": {"vocab_size": 250054},
    }.items():  # fmt: skip
        config = hf.AutoConfig.for_model(name, is_decoder=True, add_cross_attention=True, **sizes)
        with torch.device("meta"):
            theirs = hf.AutoModelForCausalLM.from_config(config)
            ours = SpeechEncoderDecoder(
                replace(ADAPTER, adapter_layers=0), getattr(DecoderConfig, name)()
            )
        count = sum(part.numel() for part in ours.decoder.parameters())
        assert count == sum(part.numel() for part in theirs.parameters()), name


# --- the table of tutorials/checkpoints.md


# family: a checkpoint of it, or "" for the sizes that transformers takes without a config
PUBLISHED = {
    "wav2vec2": "facebook/wav2vec2-base", "hubert": "facebook/hubert-large-ll60k", "unispeech": "",
    "unispeech-sat": "", "wavlm": "microsoft/wavlm-base", "data2vec-audio": "",
    "bert": "google-bert/bert-base-uncased", "roberta": "", "xlm-roberta": "",
    "camembert": "", "gpt2": "openai-community/gpt2", "bart": "facebook/bart-base",
    "mbart": "facebook/mbart-large-50", "trocr": "",
    "speech_to_text_2": "facebook/s2t-wav2vec2-large-en-de",
}  # fmt: skip


def row(family: str) -> str:
    """Tensors and parameters at the published size; the largest difference of a tiny pair."""
    config, name = {"model_type": family}, PUBLISHED[family]
    if name:
        (path,) = (Path(__file__).parent / "data/configs").glob(name.replace("/", "__") + ".*json")
        config |= json.loads(path.read_text())
    part = remap.read_table(family).part
    config = config.get("decoder", config)
    actual = pretrained.read_part(config, part, "config.json: ")[1]
    pair = {
        "encoder": EncoderConfig(num_layers=1),
        "decoder": DecoderConfig.bert(9, num_layers=1),
        part: actual,
    }
    with torch.device("meta"):
        state = getattr(SpeechEncoderDecoder(**pair), part).state_dict()
    count = sum(value.numel() for value in state.values())
    return f"| {family} | {name or 'default sizes'} | {len(state)} | {count / 1e6:.1f} M |"


def largest_difference(family: str, folder: Path) -> float:
    if family == "speech_to_text_2":
        theirs = pair_of("base", "trocr, sinusoidal, untied")
        s2t_folder(theirs, folder)
    else:
        encoders = {kind: name for name, (kind, _) in ENCODERS.items()}
        theirs = pair_of(encoders.get(family, "base"), family if family in DECODERS else "bert")
        theirs.save_pretrained(folder)
    return assert_same_numbers(
        theirs, SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)
    )


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_table_in_the_readme(family):
    (line,) = (line for line in CHECKPOINTS.splitlines() if line.startswith(f"| {family} |"))
    assert line.startswith(row(family))
    assert float(line.split("|")[5]) < 1e-12


def test_the_table_has_every_family():
    assert PUBLISHED.keys() == remap.find_tables().keys() - {pretrained.MODEL_TYPE}


if __name__ == "__main__":
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    print(
        "| family | checkpoint | tensors | parameters | largest difference |\n|---|---|---|---|---|"
    )
    for family in PUBLISHED:
        with tempfile.TemporaryDirectory() as folder:
            print(row(family), f"{largest_difference(family, Path(folder)):.0e} |", flush=True)
