# pytest tests/test_model.py          (on a machine with a GPU: pytest -m gpu tests/test_model.py)
"""nanos2t/model.py against transformers' SpeechEncoderDecoderModel: logits, loss, gradients.

Ours gets the padded batch, HF each item alone. Functions that return a difference are the checks;
test_mutations.py breaks the code and asks them to notice.
"""

import math

import pytest
import torch
from helpers import encoder_parity
from helpers.encoder_parity import LENGTHS, TOLERANCE, count_frames, items, largest
from helpers.model_parity import T, batch_of, differences, every_pair, models, new_model, rows
from torch import Tensor, nn

from nanos2t import remap, wav2vec2
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import (
    IGNORED,
    SpeechEncoderDecoder,
    count_real_samples,
    cross_entropy,
    shift_right,
)
from nanos2t.wav2vec2 import EncoderConfig

hf = pytest.importorskip("transformers")

EXACT = ["large", "large, no bridge"]  # HF's batches are HF's items: layer norm only, no adapter


def their_gradients(pair: str) -> dict[str, Tensor]:
    """Gradients of HF's model by our names; the model has none afterwards."""
    theirs, ours = models(pair)
    named = theirs.named_parameters(remove_duplicate=False)
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    theirs.zero_grad()
    return remap.import_state(rows(pair), gradients, ours.state_dict())


def our_gradients(pair: str) -> dict[str, Tensor]:
    """Gradients of our model; the model has none afterwards."""
    ours = models(pair)[1]
    named = ours.named_parameters()
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    ours.zero_grad()
    return gradients


def assert_same_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    assert max(gradient.abs().max() for gradient in got.values()) > 1e-2
    for name, gradient in want.items():
        assert largest(got[name], gradient) < 1e-9, name


# Parity


@every_pair
def test_memory_logits_and_loss_are_hf(pair):
    theirs, ours = models(pair)
    assert (
        isinstance(ours.bridge, nn.Linear)
        == hasattr(theirs, "enc_to_dec_proj")
        == ("no bridge" not in pair)
    )
    for what, difference in differences(pair).items():
        assert difference < TOLERANCE, what


@every_pair
def test_gradients_of_one_item_are_hf(pair):
    theirs, ours = models(pair)
    waveforms, _, labels = batch_of((577,))
    theirs(waveforms, labels=labels).loss.backward()
    ours(waveforms, labels=labels).loss.backward()
    got, want = our_gradients(pair), their_gradients(pair)
    assert set(dict(ours.named_parameters())) - set(got) == {"encoder.masked_spec_embed"}
    assert_same_gradients(got, want)


@pytest.mark.parametrize("pair", ["base", "large", "hubert"])
def test_gradients_with_masked_frames_are_hf(pair):
    theirs, ours = models(pair)
    waveforms, _, labels = batch_of((577,))
    masked = torch.rand(1, count_frames(ours.encoder, torch.tensor(577))) < 0.3
    want = theirs(waveforms, labels=labels, mask_time_indices=masked)
    got = ours(waveforms, labels=labels, mask_time_indices=masked)
    assert largest(got.logits, want.logits) < TOLERANCE
    got.loss.backward()
    want.loss.backward()
    got = our_gradients(pair)
    assert got["encoder.masked_spec_embed"].abs().max() > 1e-6
    assert_same_gradients(got, their_gradients(pair))


@pytest.mark.parametrize("pair", EXACT)
def test_gradients_of_a_padded_batch_are_hf(pair):
    theirs, ours = models(pair)
    waveforms, mask, labels = batch_of()
    want, got = theirs(waveforms, attention_mask=mask, labels=labels), ours(waveforms, mask, labels)
    assert largest(got.loss, want.loss) < TOLERANCE
    want.loss.backward()
    got.loss.backward()
    assert_same_gradients(our_gradients(pair), their_gradients(pair))


@every_pair
def test_gradients_of_a_padded_batch_are_those_of_its_items(pair):
    """HF promises no such thing for group norm and adapters. Two clips are under one frame."""
    ours = models(pair)[1]
    waveforms, mask, labels = batch_of((*LENGTHS, 17, 0))
    count = (labels != IGNORED).sum()
    ours(waveforms, mask, labels).loss.backward()
    together = our_gradients(pair)
    for i, item in enumerate(items(waveforms, mask.sum(1))):
        (
            ours(item, labels=labels[i : i + 1]).loss * (labels[i] != IGNORED).sum() / count
        ).backward()
    assert_same_gradients(our_gradients(pair), together)


# Labels


def test_labels_that_are_all_ignored():
    """HF: the mean of nothing, NaN."""
    theirs, ours = models("base")
    waveforms, mask, labels = batch_of()
    labels = torch.full_like(labels, IGNORED)
    assert theirs(waveforms, attention_mask=mask, labels=labels).loss.isnan()
    loss = ours(waveforms, mask, labels).loss
    assert loss == 0
    loss.backward()
    gradients = our_gradients("base")
    assert len(gradients) > 50
    assert all(gradient.eq(0).all() for gradient in gradients.values())


def test_cross_entropy_is_the_mean_over_labels():
    logits, labels = (
        torch.randn(2, 5, 7),
        torch.tensor([[1, 2, 6, -100, -100], [0, -100, 3, 4, -100]]),
    )
    want = hf.loss.loss_utils.ForMaskedLMLoss(logits, labels, vocab_size=7)
    assert largest(cross_entropy(logits, labels), want) < 1e-6


def test_cross_entropy_of_many_labels_is_finite_in_float16():
    logits = torch.zeros(2, 20_000, 7, dtype=torch.float16)
    loss = cross_entropy(logits, torch.ones(2, 20_000, dtype=torch.long))
    assert loss.dtype == torch.float16 and loss.item() == pytest.approx(math.log(7), rel=1e-3)


def test_shift_right():
    labels = torch.tensor([[5, 6, 7, 3], [8, 3, -100, -100], [-100, 9, -100, 4]])
    kept = labels.clone()
    want = [[2, 5, 6, 7], [2, 8, 3, 1], [2, 1, 9, 1]]
    assert shift_right(labels, start=2, pad=1).tolist() == want
    assert torch.equal(labels, kept)
    theirs = hf.models.speech_encoder_decoder.modeling_speech_encoder_decoder.shift_tokens_right
    assert theirs(labels, pad_token_id=1, decoder_start_token_id=2).tolist() == want


@torch.no_grad()
def test_decoder_input_of_the_caller():
    ours = models("base")[1]
    waveforms, mask, labels = batch_of()
    shifted = shift_right(labels, 2, 1)
    want, got = ours(waveforms, mask, labels), ours(waveforms, mask, decoder_input_ids=shifted)
    assert got.loss is None
    assert torch.equal(got.logits, want.logits)
    other = shifted.clone()
    other[:, 2] = 7
    got = ours(waveforms, mask, labels, decoder_input_ids=other)
    assert (
        largest(got.logits[:, :2], want.logits[:, :2])
        < TOLERANCE
        < largest(got.logits, want.logits)
    )
    assert largest(got.loss, cross_entropy(got.logits, labels)) < TOLERANCE
    got = ours(waveforms, mask)
    assert got.loss is None
    assert got.logits is None
    assert torch.equal(got.memory, want.memory)


@pytest.mark.parametrize("pair", ["base", "adapter"])
@torch.no_grad()
def test_targets_of_one_utterance_share_its_memory(pair):
    """Labels (B * K, T) of waveforms (B, L): the same as K calls."""
    ours = models(pair)[1]
    waveforms, mask, labels = batch_of(targets=3)
    got, total = ours(waveforms, mask, labels), 0.0
    for k in range(3):
        want = ours(waveforms, mask, labels[k::3])
        assert largest(got.logits[k::3], want.logits) < TOLERANCE
        total = total + want.loss * (labels[k::3] != IGNORED).sum()
    assert largest(got.loss, total / (labels != IGNORED).sum()) < TOLERANCE


def test_missing_ids():
    """Nothing is said about ids before they are needed, and then what is missing."""
    model = new_model("base")
    waveforms, mask, labels = batch_of()
    waveforms = waveforms.float()
    assert model(waveforms, mask).logits is None
    assert model(waveforms, mask, labels, decoder_input_ids=shift_right(labels, 2, 1)).loss > 0
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model(waveforms, mask, labels)
    model.generation = GenerationConfig(decoder_start_token_id=2)
    with pytest.raises(ValueError, match="pad_token_id"):
        model(waveforms, mask, labels)
    model.generation = GenerationConfig(
        decoder_start_token_id=0, pad_token_id=0
    )  # 0 is an id, not "none"
    assert model(waveforms, mask, labels).loss > 0


# Lengths


def test_count_samples():
    values = torch.zeros(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    for dtype in (torch.long, torch.int32, torch.bool):
        assert count_real_samples(values, mask.to(dtype)).tolist() == [4, 2, 0]
    assert count_real_samples(values, torch.ones(3, 4, dtype=torch.long)) is None

    # 70,001 is a number of no 16-bit type.
    long_mask = torch.ones(2, 70_002)
    long_mask[1, -1] = 0
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.uint8):
        lengths = count_real_samples(long_mask, long_mask.to(dtype))
        assert not lengths.is_floating_point()
        assert lengths.tolist() == [70_002, 70_001]
    with pytest.raises(ValueError, match=r"attention_mask.*\(3, 5\).*\(3, 4\)"):
        count_real_samples(values, torch.ones(3, 5))
    for dtype in (torch.long, torch.bool):
        with pytest.raises(ValueError, match="attention_mask.*right"):
            count_real_samples(values, mask.flip(1).to(dtype))
    with pytest.raises(ValueError, match="attention_mask"):
        count_real_samples(values, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]]))


@torch.no_grad()
def test_frames():
    ours = models("adapter")[1]
    waveforms, mask, _ = batch_of()
    got = ours(waveforms, mask)
    assert (
        got.frame_lengths.tolist() == count_frames(ours.encoder, mask.sum(1), adapters=3).tolist()
    )
    assert got.memory.shape == (len(LENGTHS), got.frame_lengths.max(), 35)
    got = ours(waveforms[:, :333], torch.ones(len(LENGTHS), 333))
    assert got.frame_lengths.tolist() == [got.memory.shape[1]] * len(LENGTHS)
    assert got.frame_lengths.dtype == torch.long
    memory, frames = ours.encode(waveforms)
    assert frames is None
    assert torch.equal(memory, ours(waveforms).memory)


@torch.no_grad()
def test_no_mask_is_built_where_nothing_is_masked(monkeypatch):
    """Then attention may take its fast kernel: one utterance, equal lengths, one-token steps."""
    masks, attend = [], wav2vec2.attend

    def spy(queries, keys, values, mask=None, is_causal=False, dropout=0.0):
        masks.append(mask)
        return attend(queries, keys, values, mask, is_causal, dropout)

    monkeypatch.setattr(wav2vec2, "attend", spy)
    ours = models("adapter")[1]
    waveforms, mask, labels = batch_of((333, 333))
    ours(waveforms, mask, labels)
    ours(waveforms[:1], labels=labels[:1])
    memory, cache = (
        ours.decoder.project_memory(ours.encode(waveforms)[0]),
        ours.decoder.new_caches(2, T),
    )
    for t in range(3):
        ours.decoder(labels[:, t : t + 1].clamp(min=0), memory, None, cache)
    assert (
        len(masks) == (2 + 4) + (2 + 4) + 2 + 3 * 4
    )  # two blocks, two attentions in those of the decoder
    assert all(mask is None for mask in masks)


# New models


@pytest.mark.parametrize(
    ("encoder", "encoder_options", "decoder_options"),
    [
        (EncoderConfig(), {}, {}),
        (
            EncoderConfig.large(adapter_layers=3),
            {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
             "intermediate_size": 4096, **encoder_parity.LARGE, **encoder_parity.THREE},
            {"hidden_size": 1024, "num_hidden_layers": 5, "num_attention_heads": 16},
        ),
        (
            EncoderConfig(conv_bias=True),
            {"conv_bias": True},
            {"hidden_size": 384, "vocab_size": 77},
        ),
    ],
)  # fmt: skip
def test_parameter_count_is_hf(encoder, encoder_options, decoder_options):
    names = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
    decoder = DecoderConfig.bert(
        **{names.get(key, key): value for key, value in decoder_options.items()}
    )
    theirs = hf.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.Wav2Vec2Config(**encoder_options),
        hf.BertConfig(is_decoder=True, add_cross_attention=True, **decoder_options),
    )
    with torch.device("meta"):
        pair = (
            hf.SpeechEncoderDecoderModel(theirs),
            SpeechEncoderDecoder.from_configs(encoder, decoder),
        )
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in pair]
    assert counts[0] == counts[1] > 1e8
    if not decoder_options:
        assert counts[0] == 232_252_858


@pytest.mark.parametrize("pair", ["base", "large"])
def test_freeze_feature_encoder(pair):
    theirs, ours = hf.SpeechEncoderDecoderModel(models(pair)[0].config), new_model(pair)
    theirs.freeze_feature_encoder()
    ours.freeze_feature_encoder()
    trained = [
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (theirs, ours)
    ]
    assert trained[0] == trained[1]
    waveforms, mask, labels = batch_of()
    ours.generation = GenerationConfig(decoder_start_token_id=2, pad_token_id=1)
    ours.eval()  # no layerdrop: every block gets a gradient
    ours(waveforms.float(), mask, labels).loss.backward()
    for name, parameter in ours.named_parameters():
        frozen = (
            name.startswith("encoder.feature_encoder.") or name == "encoder.masked_spec_embed"
        )  # not used
        assert (parameter.grad is None) == frozen, name


# Other devices


@pytest.mark.gpu
@pytest.mark.parametrize("pair", ["base", "adapter"])
@torch.no_grad()
def test_cuda_is_cpu(pair, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    ours = models(pair)[1]
    model = SpeechEncoderDecoder(ours.encoder.config, ours.decoder.config, ours.generation).eval()
    model.load_state_dict(ours.state_dict())
    waveforms, mask, labels = batch_of()
    want = model(waveforms.float(), mask, labels)
    got = model.cuda()(waveforms.float().cuda(), mask.cuda(), labels.cuda())
    assert got.logits.is_cuda
    assert got.frame_lengths.tolist() == want.frame_lengths.tolist()
    assert largest(got.logits.cpu(), want.logits) < 1e-3
    assert largest(got.loss.cpu(), want.loss) < 1e-4
