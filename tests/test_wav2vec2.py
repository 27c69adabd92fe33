# pytest tests/test_wav2vec2.py
"""nanos2t/wav2vec2.py against transformers, float64, weights spread, stage by stage.

Our encoder always gets the padded batch, HF each item alone: HF's own batches are not exact. The
functions of helpers/encoder_parity.py that return a difference are the checks; test_mutations.py
breaks the code and asks them to notice.
"""

import copy
from dataclasses import fields, replace

import pytest
import torch
from helpers.encoder_parity import (
    LARGE,
    LENGTHS,
    SHORT,
    THREE,
    TOLERANCE,
    batch_difference,
    count_frames,
    encoders,
    every_variant,
    is_channels_first,
    items,
    largest,
    our_stages,
    recorded,
    stage_differences,
    variants,
    waves,
)
from torch import nn

from nanos2t import wav2vec2
from nanos2t.wav2vec2 import Encoder, EncoderConfig, EncoderTraining

hf = pytest.importorskip("transformers")


# Parity


@every_variant
def test_every_stage_is_hf(variant):
    for stage, difference in stage_differences(variant).items():
        assert difference < TOLERANCE, stage


@every_variant
@torch.no_grad()
def test_one_waveform_needs_no_lengths(variant):
    theirs, ours = encoders(variant)
    batch, _ = waves(577, 577)
    kept = batch.clone()
    got, frame_lengths = ours(batch)
    assert frame_lengths is None
    assert torch.equal(batch, kept)
    for i in range(2):
        assert largest(got[i : i + 1], theirs(batch[i : i + 1]).last_hidden_state) < TOLERANCE


@variants("base", "large", "other width")
@torch.no_grad()
def test_masked_frames(variant):
    """SpecAugment's spans, drawn elsewhere: HF's `mask_time_indices`."""
    theirs, ours = encoders(variant)
    batch, samples = waves(*LENGTHS)
    frame_counts = count_frames(ours, samples)
    masked = torch.rand(len(LENGTHS), frame_counts.max()) < 0.3
    got, _ = ours(batch, samples, masked)
    assert largest(got, ours(batch, samples)[0]) > 0.1
    for i, item in enumerate(items(batch, samples)):
        its_mask = masked[i : i + 1, : frame_counts[i]]
        want = theirs(item, mask_time_indices=its_mask).last_hidden_state
        assert largest(got[i, : want.shape[1]], want[0]) < TOLERANCE


@variants("base", "large")
@torch.no_grad()
def test_a_clip_shorter_than_one_frame_is_padded_with_zeros(variant):
    theirs, ours = encoders(variant)
    for length in SHORT:
        batch, _ = waves(length, 1)
        clip = batch[:1, :length]
        padded = nn.functional.pad(clip, (0, ours.config.min_samples - length))
        want = theirs(padded).last_hidden_state
        assert largest(ours(clip)[0], want) < TOLERANCE


# Batching


@every_variant
def test_batch_is_alone(variant):
    assert batch_difference(variant) < TOLERANCE


@variants("base", "large", "other width")
@pytest.mark.parametrize("lengths", [(7, 12), (12, 12), (0, 0), (333, 0), (30, 31, 49, 50)])
def test_batches_of_few_frames(variant, lengths):
    assert batch_difference(variant, lengths) < TOLERANCE


@variants("base", "large", "other width")
@torch.no_grad()
def test_padding_behind_the_longest_item(variant):
    ours = encoders(variant)[1]
    batch, samples = waves(*LENGTHS)
    want, frames = ours(batch, samples)
    got, got_frames = ours(nn.functional.pad(batch, (0, 111)), samples)
    assert torch.equal(got_frames, frames)
    for i, length in enumerate(frames):
        assert largest(got[i, :length], want[i, :length]) < TOLERANCE


@every_variant
def test_what_stands_in_the_padding_is_not_looked_at(variant):
    assert batch_difference(variant, LENGTHS, fill=1e3) < TOLERANCE


@variants("base", "large")
def test_padding_of_clips_shorter_than_one_frame_is_not_looked_at(variant):
    assert batch_difference(variant, fill=1e3) < TOLERANCE


@every_variant
@torch.no_grad()
def test_no_stage_looks_at_padded_frames(variant):
    """Real frames stay the same whatever a stage returns for padding: NaN where it is zeroed."""
    ours = encoders(variant)[1]
    batch, samples = waves(*LENGTHS)
    stages = our_stages(ours)
    stages.pop("whole")
    want, frame_lengths = ours(batch, samples)

    # How many frames are real after each stage.
    lengths = dict.fromkeys(stages, count_frames(ours, samples))
    for i in range(3):
        lengths[f"conv {i}"] = count_frames(ours, samples, i + 1)
        lengths[f"adapter conv {i}"] = count_frames(ours, samples, None, i + 1)

    # The stages after which the padding is set to zero.
    zeroed = {"feature encoder", "projection"}
    zeroed |= {name for name in stages if "adapter" in name}
    if ours.config.pre_norm and ours.config.adapter_layers:
        zeroed.add("norm")

    def poison(name, output):
        output = output.clone()
        frames = output.transpose(1, 2) if is_channels_first(name, ours=True) else output
        for row, length in zip(frames, lengths[name], strict=True):
            row[length:] = torch.nan if name in zeroed else 1e4
        return output

    with recorded(stages, poison) as seen:
        got, _ = ours(batch, samples)
    assert seen.keys() == stages.keys()
    for i, length in enumerate(frame_lengths):
        assert largest(got[i, :length], want[i, :length]) < TOLERANCE


@pytest.mark.parametrize("config", [hf.Wav2Vec2Config(), hf.Wav2Vec2Config(add_adapter=True)])
def test_frames_are_hf_lengths(config):
    """The official geometry: 10 s are 499 frames."""
    adapter_layers = 3 if config.add_adapter else 0
    with torch.device("meta"):
        theirs = hf.Wav2Vec2Model(config)
        ours = Encoder(EncoderConfig(adapter_layers=adapter_layers))
    samples = torch.cat([torch.arange(400, 8000), torch.tensor([160_000])])
    frames = count_frames(ours, samples, adapters=99)
    assert torch.equal(frames, theirs._get_feat_extract_output_lengths(samples))
    assert config.add_adapter or frames[-1] == 499


def test_all_items_full_is_as_if_nothing_were_said():
    ours = encoders("base")[1]
    batch, samples = waves(333, 333)
    assert largest(ours(batch, samples)[0], ours(batch)[0]) < TOLERANCE


# Training mode


def with_training(variant: str, **rates: float) -> Encoder:
    """The variant in training mode, with all rates 0 but these."""
    ours = encoders(variant)[1]
    zeros = {field.name: 0.0 for field in fields(EncoderTraining) if "dropout" in field.name}
    training = replace(ours.config.training, **{**zeros, "layerdrop": 0.0, **rates})
    model = Encoder(replace(ours.config, training=training)).double()
    model.load_state_dict(ours.state_dict())
    return model.train()


@variants("base", "large", "other width")
@torch.no_grad()
def test_training_mode_alone_changes_nothing(variant):
    batch, samples = waves(*LENGTHS)
    model = with_training(variant)
    assert largest(model(batch, samples)[0], model.eval()(batch, samples)[0]) < TOLERANCE


@variants("base", "large", "other width")
@pytest.mark.parametrize("rate", [f.name for f in fields(EncoderTraining) if "drop" in f.name])
@torch.no_grad()
def test_each_dropout_works_in_training_mode_only(variant, rate):
    batch, samples = waves(*LENGTHS)
    model = with_training(variant, **{rate: 0.5})
    # Seven times, as layerdrop may keep both blocks a few times.
    outputs = [model(batch, samples)[0] for _ in range(7)]
    assert max(largest(outputs[0], output) for output in outputs) > 1e-3
    want = encoders(variant)[1](batch, samples)[0]
    assert largest(model.eval()(batch, samples)[0], want) < TOLERANCE


@variants("base", "large", "hubert, no norm", "data2vec")
@pytest.mark.parametrize("rate", [f.name for f in fields(EncoderTraining) if "dropout" in f.name])
@torch.no_grad()
def test_the_same_seed_drops_what_hf_drops(variant, rate):
    """HF and ours draw in the same order: the dropouts stand in the same places."""
    theirs = encoders(variant)[0]
    config = copy.deepcopy(theirs.config)
    for field in fields(EncoderTraining):
        if "dropout" in field.name:
            setattr(config, field.name, 0.0)
    setattr(config, rate, 0.5)
    config.layerdrop = 0.0
    config.apply_spec_augment = False
    model = type(theirs)(config).double().train()
    model.load_state_dict(theirs.state_dict())
    ours = with_training(variant, **{rate: 0.5})
    batch, _ = waves(577)
    torch.manual_seed(3)
    want = model(batch).last_hidden_state
    torch.manual_seed(3)
    assert largest(ours(batch)[0], want) < TOLERANCE


@variants("base", "large", "adapter")
@torch.no_grad()
def test_layerdrop_skips_blocks_and_nothing_else(variant):
    batch, samples = waves(*LENGTHS)
    model = with_training(variant, layerdrop=1.0)
    got, frames = model(batch, samples)
    model.blocks = nn.ModuleList()
    want, want_frames = model.eval()(batch, samples)
    assert largest(got, want) < TOLERANCE
    assert torch.equal(frames, want_frames)


@variants("adapter")
@torch.no_grad()
def test_layerdrop_never_changes_the_number_of_frames(variant):
    batch, samples = waves(*LENGTHS)
    model = with_training(variant, layerdrop=0.5)
    want, frames = encoders(variant)[1](batch, samples)
    for _ in range(9):
        got, got_frames = model(batch, samples)
        assert got.shape == want.shape
        assert torch.equal(got_frames, frames)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-4), (torch.bfloat16, 1e-4), (torch.float64, TOLERANCE)],
)
def test_group_norm_of_many_frames_in_any_dtype(dtype, tolerance):
    """32,000 squares of up to 100 are more than float16 can hold."""
    x = (2 * torch.randn(2, 4, 32000) + 0.5).to(dtype)
    weight, bias = torch.randn(2, 4).to(dtype)
    got = wav2vec2.masked_group_norm(x, torch.tensor([32000, 30000]), weight, bias)
    assert got.dtype == dtype
    for item, length in enumerate([32000, 30000]):
        want = wav2vec2.masked_group_norm(x[item : item + 1, :, :length], None, weight, bias)
        difference = (got[item, :, :length].double() - want[0].double()).abs()
        assert difference.mean() < tolerance


# Attention


def test_mask_padding():
    mask = wav2vec2.mask_padding(torch.tensor([3, 1]), 3)
    assert mask.dtype == torch.bool and mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].tolist() == [[True, True, True], [True, False, False]]
    assert wav2vec2.mask_padding(None, 3) is None


@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_are_those_of_attend(masked):
    queries = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 3, 7, 5, dtype=torch.float64)
    mask = wav2vec2.mask_padding(torch.tensor([7, 4]) if masked else None, 7)
    weights = wav2vec2.attention_weights(queries, keys, mask)
    assert largest(weights.sum(3), torch.ones(2, 3, 4, dtype=torch.float64)) < TOLERANCE
    assert largest(weights @ values, wav2vec2.attend(queries, keys, values, mask)) < TOLERANCE
    if masked:
        assert weights[1, ..., 4:].eq(0).all()


def test_attend_causally():
    queries, keys, values = torch.randn(3, 2, 3, 5, 7, dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    weights = wav2vec2.attention_weights(queries, keys, mask)
    got = wav2vec2.attend(queries, keys, values, is_causal=True)
    assert largest(got, weights @ values) < TOLERANCE


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["plain", "masked", "causal"])
def test_attend_step_by_step_is_attend(kind, dropout):
    queries = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 3, 7, 5, dtype=torch.float64)
    options = {"dropout": dropout}
    if kind == "masked":
        options["mask"] = wav2vec2.mask_padding(torch.tensor([7, 4]), 7)
    if kind == "causal":
        options["is_causal"] = True
    outputs = []
    for function in (wav2vec2.attend, wav2vec2.attend_step_by_step):
        torch.manual_seed(0)
        outputs.append(function(queries, keys, values, **options))
    assert largest(*outputs) < TOLERANCE


@variants("base", "large", "wavlm")
@torch.no_grad()
def test_attention_can_be_switched_to_single_steps(variant, monkeypatch):
    """The one line that the docstring of `attend` gives."""
    ours = encoders(variant)[1]
    batch, samples = waves(*LENGTHS)
    want, _ = ours(batch, samples)
    calls = []

    def step_by_step(*arguments):
        calls.append(arguments)
        return attend_step_by_step(*arguments)

    attend_step_by_step = wav2vec2.attend_step_by_step
    monkeypatch.setattr(wav2vec2, "attend", step_by_step)
    assert largest(ours(batch, samples)[0], want) < TOLERANCE
    assert len(calls) == len(ours.blocks)


# Relative positions


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (11, 20), (4, 2), (12, 17)])
def test_every_distance_has_the_bucket_of_hf(num_buckets, max_distance):
    """Also far beyond max_distance: 1000 frames are 20 s."""
    theirs = hf.models.wavlm.modeling_wavlm.WavLMAttention(
        4, 2, num_buckets=num_buckets, max_distance=max_distance
    )
    times = torch.arange(1000)
    got = wav2vec2.find_distance_buckets(times, num_buckets, max_distance)
    assert torch.equal(got, theirs._relative_positions_bucket(times - times[:, None]))
    assert got.min() >= 0 and got.max() < num_buckets


def test_attention_weights_of_a_mask_of_numbers():
    queries = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 3, 7, 5, dtype=torch.float64)
    mask = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    mask[1, :, :, 4:] = -torch.inf
    weights = wav2vec2.attention_weights(queries, keys, mask)
    assert largest(weights @ values, wav2vec2.attend(queries, keys, values, mask)) < TOLERANCE
    assert weights[1, ..., 4:].eq(0).all()


@variants("wavlm")
def test_the_one_attention_of_a_block_gets_a_mask_of_its_own(variant, monkeypatch):
    """One call for each block, with a mask of numbers that depends on the block's input."""
    ours = encoders(variant)[1]
    masks = []

    def attend(queries, keys, values, mask, *rest):
        masks.append(mask)
        return nn.functional.scaled_dot_product_attention(queries, keys, values, mask)

    monkeypatch.setattr(wav2vec2, "attend", attend)
    batch, samples = waves(*LENGTHS)
    frames = count_frames(ours, samples)
    ours(batch, samples)
    assert len(masks) == len(ours.blocks)
    total = int(frames.max())
    assert {tuple(mask.shape) for mask in masks} == {(len(batch), 5, total, total)}
    for mask in masks:
        for item, length in zip(mask, frames, strict=True):
            assert item[:, :, :length].isfinite().all() and item[:, :, length:].isneginf().all()
    assert largest(masks[0][0, :, :, 0], masks[1][0, :, :, 0]) > 0.1


# Sizes


def test_min_samples():
    assert EncoderConfig().min_samples == EncoderConfig.large().min_samples == 400
    assert encoders("base")[1].config.min_samples == 30
    with pytest.raises(RuntimeError):
        encoders("base")[0](torch.zeros(1, 29).double())


def test_presets_are_the_official_sizes():
    """wav2vec2-base is HF's default; what differs in wav2vec2-large-lv60 and xls-r-300m."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    large["intermediate_size"] = 4096
    for config, official, parameters in [
        (EncoderConfig(), hf.Wav2Vec2Config(), 94_371_712),
        (EncoderConfig.large(), hf.Wav2Vec2Config(**large, **LARGE), 315_438_720),
        (
            EncoderConfig.large(adapter_layers=3),
            hf.Wav2Vec2Config(**large, **LARGE, **THREE),
            334_319_232,
        ),
    ]:
        assert config.hidden_size == official.hidden_size == config.output_size
        assert config.num_layers == official.num_hidden_layers
        assert config.num_heads == official.num_attention_heads
        assert config.intermediate_size == official.intermediate_size
        assert config.norm_eps == official.layer_norm_eps
        assert config.conv_channels == tuple(official.conv_dim)
        assert config.conv_kernels == tuple(official.conv_kernel)
        assert config.conv_strides == tuple(official.conv_stride)
        assert config.position_kernel == official.num_conv_pos_embeddings
        assert config.position_groups == official.num_conv_pos_embedding_groups
        assert config.pre_norm == official.do_stable_layer_norm
        assert config.conv_norm == official.feat_extract_norm
        assert config.conv_bias == official.conv_bias
        assert config.adapter_kernel == official.adapter_kernel_size
        assert config.adapter_stride == official.adapter_stride
        assert config.init_std == official.initializer_range
        with torch.device("meta"):
            models = Encoder(config), hf.Wav2Vec2Model(official)
        counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
        assert counts == [parameters, parameters]


def test_output_size():
    assert EncoderConfig(adapter_size=19).output_size == 768  # no adapter, no projection
    assert EncoderConfig(adapter_size=19, adapter_layers=1).output_size == 19
    assert EncoderConfig(adapter_layers=1).output_size == 768
