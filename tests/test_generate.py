# pytest tests/test_generate.py
"""`generate` through a model: results, the decoder's session and its cache, errors."""

import copy
import re

import pytest
import torch
from helpers.generation_models import make_batch, paired_models, tiny_model
from helpers.search_scripts import CONFIG, SEARCHES
from torch import Tensor

from nanos2t import decoder
from nanos2t.generate import DecoderSession, Generated, beam_search, generate, greedy_search
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import mask_padding


def test_generate_returns_tokens_or_all_of_it():
    model, waveforms = tiny_model(), torch.randn(3, 99)
    full = model.generate(
        waveforms, num_beams=3, num_return_sequences=2, return_dict_in_generate=True
    )
    assert isinstance(full, Generated)
    assert full.sequences.shape == (6, full.token_logprobs.shape[1] + 1)
    assert full.sequences_scores.shape == (6,)
    assert (full.sequences[:, 0] == CONFIG.decoder_start_token_id).all()
    assert not full.sequences_scores.requires_grad
    assert torch.equal(
        generate(model, waveforms, num_beams=3, num_return_sequences=2), full.sequences
    )
    assert model.generation == CONFIG


@pytest.mark.parametrize("beams", [1, 3])
def test_the_last_position_of_the_decoder_is_used_and_no_more(beams):
    options = {"num_beams": beams, "eos_token_id": None}
    assert tiny_model(5).generate(torch.randn(1, 99), max_length=6, **options).shape == (1, 6)
    with pytest.raises(ValueError, match="6 tokens, .* 5 positions"):
        tiny_model(5).generate(torch.randn(1, 99), max_length=7, **options)


def test_a_missing_start_token_says_how_to_give_one():
    model = tiny_model()
    model.generation = GenerationConfig(eos_token_id=2)
    with pytest.raises(
        ValueError, match="no decoder_start_token_id: pass decoder_start_token_id=... or set it"
    ):
        model.generate(torch.zeros(1, 99))
    assert model.generate(torch.zeros(1, 99), decoder_start_token_id=3)[0, 0] == 3


# Encode once, search several times


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.4},
        {"do_sample": True, "num_return_sequences": 3},
    ],
)
def test_generate_from_memory_is_generate(options):
    model = paired_models("group norm, 23 words")[1]
    waveforms, mask = make_batch()
    memory, frame_lengths = model.encode(waveforms, mask)
    kept = memory.detach().clone()
    torch.manual_seed(0)
    want = model.generate(waveforms, mask, return_dict_in_generate=True, **options)
    for _ in range(2):
        torch.manual_seed(0)
        assert torch.equal(
            model.generate_from_memory(memory, frame_lengths, **options), want.sequences
        )
    assert torch.equal(memory, kept)

    # The whole result, the trace, and items that are not padded.
    torch.manual_seed(0)
    trace = []
    got = model.generate_from_memory(
        memory, frame_lengths, trace=trace, return_dict_in_generate=True, **options
    )
    assert trace and torch.equal(got.sequences_scores, want.sequences_scores)
    torch.manual_seed(0)
    alone = model.generate_from_memory(memory[:1, : frame_lengths[0]], **options)
    torch.manual_seed(0)
    item = waveforms[:1, : mask[0].sum()]
    assert torch.equal(alone, model.generate(item, **options))


def test_memory_of_a_wrong_shape_is_refused():
    model = tiny_model()
    width = model.decoder.config.hidden_size
    memory = torch.zeros(2, 7, width)
    expected = f", expected \\(utterances, frames, {width}\\), as `encode` returns it"
    for wrong, shape in (memory[0], (7, width)), (memory[..., 1:], (2, 7, width - 1)), (None, ()):
        with pytest.raises(ValueError, match=f"memory has shape {re.escape(str(shape))}{expected}"):
            model.generate_from_memory(wrong)
    for lengths, message in {
        (7,): "expected a tensor of 2 numbers",
        (7, 0): r"frame_lengths is \[7, 0\], expected 1 to 7",
        (8, 1): r"frame_lengths is \[8, 1\], expected 1 to 7",
    }.items():
        with pytest.raises(ValueError, match=message):
            model.generate_from_memory(memory, torch.tensor(lengths))
    with pytest.raises(ValueError, match="num_beam"):
        model.generate_from_memory(memory, num_beam=3)


# The decoder's session


class Uncached:
    """Computes what DecoderSession does, from all tokens and a copy of the memory for each beam."""

    def __init__(
        self, model: SpeechEncoderDecoder, memory: Tensor, frame_lengths: Tensor, num_beams: int
    ):
        is_real = mask_padding(frame_lengths, memory.shape[1])  # (B, 1, 1, S)
        self.decoder = model.decoder
        self.memory_mask = is_real.repeat_interleave(num_beams, 0)
        self.cross_keys_values = model.decoder.project_memory(
            memory.repeat_interleave(num_beams, 0)
        )

    def __call__(self, tokens: Tensor, parent_rows: Tensor | None) -> Tensor:
        # The rows of utterances that remain; beams of one utterance have the same memory.
        if parent_rows is not None:
            self.memory_mask = self.memory_mask[parent_rows]
            self.cross_keys_values = [
                (keys[parent_rows], values[parent_rows]) for keys, values in self.cross_keys_values
            ]
        return self.decoder(tokens, self.cross_keys_values, self.memory_mask)[:, -1].float()


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("sample", [False, True])
@torch.no_grad()
def test_with_a_cache_and_shared_memory_or_without(options, sample):
    model = paired_models("group norm, 23 words")[1]
    options = {**options, "max_length": 12, "do_sample": sample}
    config = model.generation.override(options)
    memory, frame_lengths = model.encode(*make_batch())
    start = torch.full((len(memory), 1), config.decoder_start_token_id)
    search = beam_search if "num_beams" in options else greedy_search

    uncached = Uncached(model, memory, frame_lengths, config.num_beams)
    torch.manual_seed(0)
    want = search(uncached, start, config)

    rows = len(memory) * config.num_beams
    session = DecoderSession(model.decoder, memory, frame_lengths, rows, config.max_total_length)
    torch.manual_seed(0)
    got = search(session, start, config)
    assert torch.equal(got.sequences, want.sequences)
    assert torch.allclose(got.token_logprobs, want.token_logprobs, rtol=1e-5)
    assert len(want.sequences.unique(dim=0)) > 1


@pytest.mark.parametrize("name", SEARCHES)
@torch.no_grad()
def test_those_that_leave_the_batch_and_those_that_stay_get_what_they_get_alone(name):
    """In float64, for utterances of different lengths."""
    options = SEARCHES[name]
    model = paired_models("group norm, 23 words")[1]
    torch.manual_seed(1)
    memory = torch.randn(6, 9, model.decoder.config.hidden_size, dtype=torch.float64)
    frame_lengths = torch.tensor([9, 4, 7, 1, 9, 5])
    options = {
        **options,
        "eos_token_id": list(range(3, 9)),
        "max_length": 10,
        "return_dict_in_generate": True,
    }
    batch = model.generate_from_memory(memory, frame_lengths, **options)
    num_tokens = []
    for i, length in enumerate(frame_lengths):
        alone = model.generate_from_memory(memory[i : i + 1, :length], **options)
        rows = slice(i * len(alone.sequences), (i + 1) * len(alone.sequences))
        T = alone.sequences.shape[1]
        assert torch.equal(batch.sequences[rows, :T], alone.sequences)
        assert torch.allclose(batch.token_logprobs[rows, : T - 1], alone.token_logprobs, atol=1e-6)
        assert torch.allclose(batch.sequences_scores[rows], alone.sequences_scores, atol=1e-6)
        num_tokens.append(T)
    # In these two searches, all end at the same step.
    assert len(set(num_tokens)) > 1 or name in ("beams, never", "beams, constrained")


@pytest.mark.parametrize(
    ("options", "rows"), [({"num_beams": 4}, 12), ({}, 3), ({"do_sample": True}, 6)]
)
def test_beams_of_an_utterance_share_its_keys_and_values(options, rows, monkeypatch):
    model, seen = paired_models("layer norm, 23 words")[1], []
    attend = decoder.Block.attend_memory

    def watched(self, x, memory, mask):
        seen.append(
            (len(x), *(len(part) for part in memory), *(part.data_ptr() for part in memory))
        )
        return attend(self, x, memory, mask)

    monkeypatch.setattr(decoder.Block, "attend_memory", watched)
    model.generate(
        *make_batch(), min_length=6, max_length=6, num_return_sequences=rows // 3, **options
    )
    assert {call[:3] for call in seen} == {(rows, 3, 3)}
    assert len(set(seen)) == 1  # never copied or put in another order


# Errors


def test_an_empty_batch():
    with pytest.raises(
        ValueError, match="input_values: expected at least one waveform, found none"
    ):
        paired_models("group norm, 23 words")[1].generate(torch.zeros(0, 500))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_logit_that_is_not_finite(beams):
    model = copy.deepcopy(paired_models("group norm, 23 words")[1])
    with torch.no_grad():
        model.decoder.head.bias[7] = torch.nan
    with pytest.raises(ValueError, match="step 1: token 7 has the logit nan"):
        model.generate(*make_batch(), num_beams=beams)
