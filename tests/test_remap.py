# pytest tests/test_remap.py
"""nanos2t/remap.py: the laws of the tables, on official shapes, tiny models and toy rows."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.pairs import tiny_pair
from torch import Tensor, nn

from nanos2t import pretrained, remap
from nanos2t.decoder import Decoder, DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.remap import export_state, import_state, parse_table, prefix_rows, read_table
from nanos2t.remap_config import ConfigRow
from nanos2t.wav2vec2 import Encoder, EncoderConfig

hf = pytest.importorskip("transformers")

CONFIGS = Path(__file__).parent / "data/configs"
ADAPTER = {"add_adapter": True, "num_adapter_layers": 2}
OFFICIAL = {  # file and changes of it; how many tensors HF's model has
    "facebook__wav2vec2-base": ({}, 211),
    "facebook__wav2vec2-large-lv60": ({}, 422),
    "facebook__wav2vec2-xls-r-300m": ({"add_adapter": True, "output_hidden_size": 1024}, 428),
    "facebook__hubert-base-ls960.reconstructed": ({}, 211),
    "facebook__hubert-large-ll60k.reconstructed": ({}, 422),
    "google-bert__bert-base-uncased": ({"is_decoder": True, "add_cross_attention": True}, 324),
}
PAIRS = {
    "group norm": {},
    "layer norm": {
        "encoder": {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    },
    "adapter": {"encoder": ADAPTER},
    "adapter of another width": {"encoder": {**ADAPTER, "output_hidden_size": 28}},
    "no masks": {"encoder": {"mask_time_prob": 0.0}},
    "hubert": {"encoder_type": "hubert", "encoder": {"feat_proj_layer_norm": False}},
    "untied head": {"decoder": {"tie_word_embeddings": False}},
    "no bridge": {"decoder": {"hidden_size": 15, "num_attention_heads": 5}},
}
GPT2 = parse_table("""
embed.tokens                        wte
blocks.{i}.self_attn.{q,k,v}_proj   h.{i}.attn.c_attn           transpose
blocks.{i}.cross_attn.q_proj        h.{i}.crossattention.q_attn transpose
blocks.{i}.cross_attn.{k,v}_proj    h.{i}.crossattention.c_attn transpose
blocks.{i}.mlp_norm                 h.{i}.ln_2
head.weight                         lm_head.weight
embed.tokens                        lm_head                     alias
embed.tokens                        shared                      alias legacy
-                                   h.{i}.attn.bias             drop
""").tensors


def test_a_table_refuses_two_rows_of_one_name():
    rows = "[generation]\ntop_h top_h null\n- top_h null"
    with pytest.raises(ValueError, match="table, line 3: invalid row .*another row for top_h"):
        parse_table(rows)

    # A row may replace an included one, once.
    row = "\nembed_norm - false"
    table = parse_table("include bart\n[decoder]" + row)
    assert table.config["embed_norm"].default is False
    with pytest.raises(ValueError, match="another row for embed_norm"):
        parse_table("include bart\n[decoder]" + 2 * row)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Names and shapes of a model on the meta device, as tensors with values but without memory."""
    return {name: torch.zeros(()).expand(part.shape) for name, part in model.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in found
    )


@cache
def pair(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], list]:
    """The state dict of a tiny pair of HF's, ours to be filled from it, and the rows."""
    theirs = tiny_pair(**PAIRS[name])
    path, config = Path("config.json"), theirs.config.to_dict()
    encoder_family, encoder = pretrained.read_part(config["encoder"], "encoder", f"{path}: ")
    decoder_family, decoder = pretrained.read_part(config["decoder"], "decoder", f"{path}: ")
    with torch.device("meta"):
        ours = SpeechEncoderDecoder(encoder, decoder)
    return (
        theirs.state_dict(),
        ours.state_dict(),
        pretrained.table_rows([encoder_family, decoder_family]),
    )


def toy() -> dict[str, Tensor]:
    """A state dict of ours in the layout of GPT-2: 2 layers of width 3, 5 tokens."""
    ours = {"embed.tokens.weight": torch.randn(5, 3)}
    for i in range(2):
        for name in (
            "self_attn.q",
            "self_attn.k",
            "self_attn.v",
            "cross_attn.q",
            "cross_attn.k",
            "cross_attn.v",
        ):
            ours[f"blocks.{i}.{name}_proj.weight"] = torch.randn(3, 3)
            ours[f"blocks.{i}.{name}_proj.bias"] = torch.randn(3)
        ours[f"blocks.{i}.mlp_norm.weight"] = torch.randn(3)
    return ours


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_and_shapes(name):
    changes, count = OFFICIAL[name]
    config = {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}
    family, is_decoder = config["model_type"], config["model_type"] == "bert"
    part, kind, module = (
        ("decoder", DecoderConfig, Decoder) if is_decoder else ("encoder", EncoderConfig, Encoder)
    )
    _, ours = pretrained.read_part(config, part, f"{name}: ")
    with torch.device("meta"):
        config = hf.AutoConfig.for_model(**config)
        theirs = (hf.AutoModelForCausalLM if is_decoder else hf.AutoModel).from_config(config)
        ours = module(ours).state_dict()
    theirs, rows = zeros(theirs), read_table(family).tensors
    assert len(theirs) == count
    assert import_state(rows, theirs, ours).keys() == ours.keys()
    actual = [match.theirs for match in remap.match_rows(rows, ours) if not match.row.is_legacy]
    assert sorted(actual) == sorted(theirs)  # each by exactly one row
    assert {right: part.shape for right, part in export_state(rows, ours).items()} == {
        right: part.shape for right, part in theirs.items()
    }


@pytest.mark.parametrize("name", PAIRS)
def test_round_trips(name):
    theirs, empty, rows = pair(name)

    # Of two output biases, the one that counts is written twice.
    bias = "decoder.cls.predictions.bias"
    if bias in theirs:
        theirs = {**theirs, bias: theirs["decoder.cls.predictions.decoder.bias"]}
    ours = import_state(rows, theirs, empty)
    assert same(export_state(rows, ours), theirs)
    assert same(import_state(rows, export_state(rows, ours), empty), ours)
    tied = {"decoder.cls.predictions.decoder.weight", "decoder.cls.predictions.decoder.bias"}
    tied -= {"decoder.cls.predictions.decoder.weight"} if name == "untied head" else set()
    short = {right: part for right, part in theirs.items() if right not in tied}
    assert same(import_state(rows, short, empty), ours)
    assert same(export_state(rows, ours, aliases=False), short)


def test_loading_copies_nothing():
    theirs, empty, rows = pair("group norm")
    ours = import_state(rows, theirs, empty)
    assert {part.data_ptr() for part in ours.values()} <= {
        part.data_ptr() for part in theirs.values()
    }
    ours = toy()
    theirs = export_state(GPT2, ours)
    pointers = [part.untyped_storage().data_ptr() for part in theirs.values()]
    assert all(
        part.untyped_storage().data_ptr() in pointers
        for part in import_state(GPT2, theirs, ours).values()
    )


def test_older_names_are_read_and_not_written():
    theirs, empty, rows = pair("group norm")
    old = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
        "masked_spec_embed": "mask_time_emb_vector",
        "LayerNorm.weight": "LayerNorm.gamma",
        "LayerNorm.bias": "LayerNorm.beta",
    }
    renamed = dict(theirs)
    for new, name in old.items():
        renamed = {right.replace(new, name): part for right, part in renamed.items()}
    assert len(renamed.keys() - theirs.keys()) == 3 + 2 * (1 + 3 * 2 + 1)
    ours = import_state(rows, renamed, empty)
    assert same(ours, import_state(rows, theirs, empty))
    assert same(export_state(rows, ours), theirs)


def test_dropped_tensors():
    theirs, empty, rows = pair("group norm")
    extra = {
        "encoder.quantizer.codevectors": torch.ones(1),
        "encoder.project_hid.bias": torch.ones(1),
        "decoder.bert.embeddings.position_ids": torch.arange(3),
        "decoder.bert.pooler.dense.bias": torch.ones(1),
        "decoder.cls.seq_relationship.weight": torch.ones(1),
    }
    assert same(export_state(rows, import_state(rows, {**theirs, **extra}, empty)), theirs)


def test_optional_tensors_on_either_side():
    theirs, empty, rows = pair("group norm")
    masked = {"encoder.masked_spec_embed": theirs["encoder.masked_spec_embed"]}
    ours = import_state(
        rows, {right: part for right, part in theirs.items() if right not in masked}, empty
    )
    assert empty.keys() - ours.keys() == {"encoder.masked_spec_embed"}
    theirs, empty, rows = pair("no masks")
    assert same(import_state(rows, {**theirs, **masked}, empty), import_state(rows, theirs, empty))


QUERY, EMBED = (
    "decoder.bert.encoder.layer.1.attention.self.query.weight",
    "decoder.cls.predictions.decoder.weight",
)
GAIN, BRIDGE = "encoder.encoder.pos_conv_embed.conv.weight_g", "enc_to_dec_proj.bias"
DAMAGES = {  # what to do to their state dict, what the error says
    "missing": (
        lambda d: d.pop(QUERY),
        f"missing {QUERY} (our decoder.blocks.1.self_attn.q_proj.weight)",
    ),
    "bridge missing": (lambda d: d.pop(BRIDGE), f"missing {BRIDGE} (our bridge.bias)"),
    "several missing": (lambda d: [d.pop(k) for k in [*d] if "query" in k], "and 5 more"),
    "without a row": (
        lambda d: d.update({"encoder.extra": torch.ones(1)}),
        "no place in the model for encoder.extra",
    ),
    "a layer too many": (
        lambda d: d.update({QUERY.replace(".1.", ".2."): d[QUERY]}),
        QUERY.replace(".1.", ".2."),
    ),
    "shape": (
        lambda d: d.update({QUERY: d[QUERY][:27]}),
        f"{QUERY} has shape (27, 28), expected (28, 28)",
    ),
    "vector": (
        lambda d: d.update({BRIDGE: d[BRIDGE][None]}),
        f"{BRIDGE} has shape (1, 28), expected (28,)",
    ),
    "unequal alias": (
        lambda d: d.update({EMBED: d[EMBED] + 1}),
        f"{EMBED} is a second tensor for our decoder.embed",
    ),
    "two names": (
        lambda d: d.update({GAIN: torch.ones(1, 1, 4)}),
        f"{GAIN} is a second tensor for our encoder.pos",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage):
    theirs, empty, rows = pair("group norm")
    theirs = dict(theirs)
    break_, message = DAMAGES[damage]
    break_(theirs)
    with pytest.raises(ValueError) as error:
        import_state(rows, theirs, empty, "model.safetensors")
    assert str(error.value).startswith("model.safetensors: ") and message in str(error.value)


def test_export_names_a_tensor_without_a_row():
    _, empty, rows = pair("group norm")
    with pytest.raises(ValueError, match="no row of the table for our decoder.extra.weight"):
        export_state(rows, {**empty, "decoder.extra.weight": torch.ones(1)})


def test_gpt2_rows_fuse_and_transpose():
    ours = toy()
    theirs = export_state(GPT2, ours)
    assert theirs["h.1.attn.c_attn.weight"].shape == (3, 9) and theirs[
        "h.1.attn.c_attn.bias"
    ].shape == (9,)
    keys = ours["blocks.1.self_attn.k_proj.weight"]
    assert torch.equal(theirs["h.1.attn.c_attn.weight"][:, 3:6], keys.T)
    assert torch.equal(
        theirs["h.0.crossattention.c_attn.weight"][:, 3:],
        ours["blocks.0.cross_attn.v_proj.weight"].T,
    )
    assert torch.equal(
        theirs["h.0.crossattention.q_attn.weight"], ours["blocks.0.cross_attn.q_proj.weight"].T
    )
    assert all(part.is_contiguous() for part in theirs.values())
    assert (
        torch.equal(theirs["lm_head.weight"], ours["embed.tokens.weight"])
        and "shared.weight" not in theirs
    )
    mask = {"h.0.attn.bias": torch.ones(1, 1, 5, 5), "h.1.attn.bias": torch.ones(1, 1, 5, 5)}
    loaded = import_state(GPT2, {**theirs, **mask}, ours)
    assert same(loaded, ours) and same(export_state(GPT2, loaded), theirs)


def test_fused_tensors_of_unequal_parts():
    rows = parse_table("{q,k}_proj  fused  transpose").tensors
    ours = {"q_proj.weight": torch.randn(4, 3), "k_proj.weight": torch.randn(2, 3)}
    assert export_state(rows, ours)["fused.weight"].shape == (3, 6)
    assert same(import_state(rows, export_state(rows, ours), ours), ours)
    with pytest.raises(ValueError, match=r"fused.weight has shape \(6, 3\), expected \(3, 6\)"):
        import_state(rows, {"fused.weight": torch.zeros(6, 3)}, ours)


def test_an_alias_fills_in_for_the_first_name():
    ours = toy()
    theirs = export_state(GPT2, ours, aliases=False)
    assert "lm_head.weight" not in theirs
    for other in ("shared.weight", "lm_head.weight"):
        renamed = {
            other if right == "wte.weight" else right: part for right, part in theirs.items()
        }
        assert same(import_state(GPT2, renamed, ours), ours)
    del theirs["wte.weight"]
    with pytest.raises(ValueError, match="missing wte.weight"):
        import_state(GPT2, theirs, ours)


def test_the_order_of_rows_is_of_no_importance():
    for ours in (toy(), {**toy(), "head.weight": torch.randn(5, 3)}):
        theirs = export_state(GPT2, ours)
        assert same(export_state(GPT2[::-1], ours), theirs)
        assert same(import_state(GPT2[::-1], theirs, ours), ours)


def test_an_alias_gives_way_to_an_untied_head():
    ours = {**toy(), "head.weight": torch.randn(5, 3)}
    theirs = export_state(GPT2, ours)
    assert torch.equal(theirs["lm_head.weight"], ours["head.weight"])
    assert same(import_state(GPT2, theirs, ours), ours)
    with pytest.raises(ValueError, match="missing lm_head.weight"):
        import_state(
            GPT2, {right: part for right, part in theirs.items() if right != "lm_head.weight"}, ours
        )


def test_a_model_inside_a_model():
    rows = prefix_rows(GPT2, "decoder.")
    ours = {f"decoder.{name}": part for name, part in toy().items()}
    theirs = export_state(rows, ours)
    assert "decoder.h.0.ln_2.weight" in theirs
    theirs["decoder.h.0.attn.bias"] = torch.ones(1)
    assert same(import_state(rows, theirs, ours), ours)


@pytest.mark.parametrize("rows", ["a  x\nb  x", "a  x\na  y", "a  x  copy\na.weight  x.weight"])
def test_two_rows_for_one_tensor(rows):
    ours = {"a.weight": torch.ones(1), "b.weight": torch.ones(1)}
    with pytest.raises(
        ValueError, match="the table has a second row for [xy].weight or our [ab].weight"
    ):
        export_state(parse_table(rows).tensors, ours)
    with pytest.raises(ValueError, match="the table has a second row"):
        import_state(parse_table(rows).tensors, {}, ours)


@pytest.mark.parametrize("line", [
    "ours", "ours theirs transposed", "- theirs", "ours theirs drop", "{a,b} {x,y,z}",
    "include nothing",
    "[encoder]\nhidden_size hidden_size", "[encoder]\na b c d e",
])  # fmt: skip
def test_a_line_that_is_no_row(line):
    with pytest.raises(ValueError, match=f"table, line {1 + line.count(chr(10))}: invalid row"):
        parse_table(line)


def test_include_and_replace():
    base, table = read_table("wav2vec2"), read_table("hubert")
    assert table.tensors == base.tensors and table.base == "wav2vec2" and table.part == "encoder"
    assert base.config["feat_proj_norm"] == ConfigRow("feat_proj_norm", "-", True)
    assert table.config["feat_proj_norm"] == ConfigRow(
        "feat_proj_norm", "feat_proj_layer_norm", True
    )
    assert table.config["hidden_size"] == base.config["hidden_size"]


def test_tables_are_found_in_the_repository_and_once_installed(tmp_path, monkeypatch):
    assert {"bert", "hubert", "wav2vec2", "speech-encoder-decoder"} <= remap.find_tables().keys()
    for folder in ("weights_map", "nanos2t/weights_map"):
        installed = tmp_path / folder.replace("/", "_") / folder
        installed.mkdir(parents=True)
        (installed / "toy.txt").write_text("ours theirs")
        monkeypatch.setattr(
            remap, "__file__", f"{tmp_path / folder.replace('/', '_')}/nanos2t/remap.py"
        )
        assert read_table("toy").tensors == [("ours", "theirs", frozenset())]
        with pytest.raises(ValueError, match=r"no table 'bert', expected one of \['toy'\]"):
            read_table("bert")
