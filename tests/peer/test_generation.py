# pytest tests/peer/test_generation.py
"""What transformers tests of all models that generate (GenerationTesterMixin), on both sides."""

import pytest
import torch
from helpers.sides import SIDES, batch, both_sides, every_family, our_model, their_model

from nanos2t.decoder import KVCache

WAVEFORMS = batch()["input_values"]
NEW = 5
FIXED = {"max_new_tokens": NEW, "eos_token_id": None, "forced_eos_token_id": None}


def contains(rows: list[list[int]], words: list[list[int]]) -> bool:
    """Whether one of the words is somewhere in one of the rows, after its start token."""
    for row in rows:
        text = " ".join(map(str, row[1:]))
        if any(f" {' '.join(map(str, word))} " in f" {text} " for word in words):
            return True
    return False


@both_sides
@every_family
@torch.no_grad()
def test_greedy_search_takes_the_likeliest_token_of_a_forward_pass(side, family):
    """Without a cache by definition, so that it holds the cached search, too."""
    model = side.share(family)
    found = model.generate(WAVEFORMS, **FIXED)
    assert found.shape == (2, NEW + 1)
    tokens = found[:, :1]
    for _ in range(NEW):
        logits = model(WAVEFORMS, decoder_input_ids=tokens).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(2)], dim=1)
    assert torch.equal(found, tokens)


@both_sides
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("do_sample", [False, True])
@torch.no_grad()
def test_every_search_gives_rows_of_the_length_that_is_asked_for(side, beams, do_sample):
    """Greedy, sampling, beams, beams that sample: tokens alone or with their scores."""
    model = side.share("base + bert")
    options = FIXED | {"num_beams": beams, "do_sample": do_sample}
    torch.manual_seed(0)
    tokens = model.generate(WAVEFORMS, **options)
    torch.manual_seed(0)
    whole = model.generate(WAVEFORMS, **options, return_dict_in_generate=True)
    assert tokens.shape == (2, NEW + 1)
    assert torch.equal(whole.sequences, tokens)
    assert ((tokens >= 0) & (tokens < 43)).all()


@every_family
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("do_sample", [False, True])
@torch.no_grad()
def test_both_sides_find_the_same_tokens_and_scores(family, beams, do_sample):
    """One utterance, so that both draw from the same numbers."""
    options = FIXED | {"num_beams": beams, "do_sample": do_sample, "num_return_sequences": beams}
    results = {}
    for side in SIDES.values():
        torch.manual_seed(0)
        results[side.name] = side.share(family).generate(
            WAVEFORMS[:1], **options, return_dict_in_generate=True, **more_scores(side)
        )
    theirs = results["transformers"]
    ours = results["nanos2t"]
    assert torch.equal(ours.sequences, theirs.sequences)
    if beams > 1:
        assert torch.allclose(ours.sequences_scores, theirs.sequences_scores, atol=1e-5)
    indices = getattr(theirs, "beam_indices", None)
    logprobs = their_model(family).compute_transition_scores(
        theirs.sequences, theirs.scores, indices, normalize_logits=beams == 1
    )
    assert torch.allclose(ours.token_logprobs, logprobs, atol=1e-5)


def more_scores(side) -> dict:
    """Return what transformers needs to be told to return scores: ours always has them."""
    if side.name == "transformers":
        return {"output_scores": True}
    return {}


@both_sides
@torch.no_grad()
def test_the_best_sequences_come_first(side):
    model = side.share("base + bert")
    options = FIXED | {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0}
    found = model.generate(WAVEFORMS, **options, return_dict_in_generate=True, **more_scores(side))
    assert found.sequences.shape == (6, NEW + 1)
    scores = found.sequences_scores.view(2, 3)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert len({tuple(row) for row in found.sequences[:3].tolist()}) == 3


@both_sides
@torch.no_grad()
def test_no_more_sequences_than_beams(side):
    model = side.share("base + bert")
    for beams in (1, 2):
        with pytest.raises(ValueError, match="num_return_sequences"):
            model.generate(WAVEFORMS, num_beams=beams, num_return_sequences=3)


@both_sides
@pytest.mark.parametrize("beams", [1, 2])
@torch.no_grad()
def test_bad_words_are_never_written(side, beams):
    """Of one token and of two; of those that are found without the option."""
    model = side.share("xlsr-53 + gpt2")
    options = FIXED | {"num_beams": beams}
    free = model.generate(WAVEFORMS, **options).tolist()
    bad = [[free[0][1]], free[1][2:4]]
    found = model.generate(WAVEFORMS, **options, bad_words_ids=bad).tolist()
    assert contains(free, bad)
    assert not contains(found, bad)


@both_sides
@torch.no_grad()
def test_any_of_several_ends(side):
    """Every row stops at the first of the ends, and is padded after it."""
    model = side.share("base + bert")
    free = model.generate(WAVEFORMS, **FIXED)
    end = [free[0, 2].item(), free[1, 3].item()]
    found = model.generate(WAVEFORMS, max_new_tokens=NEW, eos_token_id=end, pad_token_id=1)
    for row, whole in zip(found.tolist(), free.tolist()):
        first = min(place for place in range(1, NEW + 1) if whole[place] in end)
        assert row[: first + 1] == whole[: first + 1]
        assert set(row[first + 1 :]) <= {1}


@both_sides
@torch.no_grad()
def test_no_end_before_the_least_number_of_tokens(side):
    model = side.share("base + bert")
    end = model.generate(WAVEFORMS, **FIXED)[0, 1].item()
    options = {"max_new_tokens": NEW, "eos_token_id": end, "pad_token_id": 1}
    assert model.generate(WAVEFORMS[:1], **options).shape[1] == 2
    found = model.generate(WAVEFORMS[:1], **options, min_new_tokens=3)
    assert not (found[0, 1:4] == end).any()


@both_sides
@torch.no_grad()
def test_an_unknown_option_is_named(side):
    with pytest.raises(ValueError, match="max_lenght"):
        side.share("base + bert").generate(WAVEFORMS, max_lenght=5)


REFUSED = {
    "num_beam_groups": 2, "diversity_penalty": 1.0, "penalty_alpha": 0.6, "force_words_ids": [[4]],
    "dola_layers": "low", "prompt_lookup_num_tokens": 2, "cache_implementation": "static",
    "stop_strings": ["a"], "assistant_model": None, "streamer": None, "logits_processor": [],
    "stopping_criteria": [], "past_key_values": None, "inputs_embeds": None, "use_cache": True,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_searches_are_refused_by_name(name):
    """Groups of beams, contrastive and assisted search ...: transformers' own extras."""
    with pytest.raises(ValueError, match=name):
        our_model("base + bert").generate(WAVEFORMS, **{name: REFUSED[name]})


@torch.no_grad()
def test_padding_on_the_left_is_refused_by_ours_only():
    """transformers encodes it, with other numbers than without the padding."""
    mask = torch.ones(2, 191, dtype=torch.long)
    mask[0, :60] = 0
    family = "xlsr-53 + gpt2"
    their_model(family).generate(WAVEFORMS, attention_mask=mask, **FIXED)
    with pytest.raises(ValueError, match="padding on the right only"):
        our_model(family).generate(WAVEFORMS, mask, **FIXED)


@torch.no_grad()
def test_caches_have_keys_and_values_of_every_head():
    """As many layers, heads, tokens and numbers as in transformers' cache."""
    tokens = torch.tensor([[2, 5, 6], [2, 7, 8]])
    theirs = their_model("base + bert")(WAVEFORMS, decoder_input_ids=tokens, use_cache=True)
    decoder = our_model("base + bert").decoder
    memory = our_model("base + bert").encode(WAVEFORMS)[0]
    caches = decoder.new_caches(2, 3)
    decoder(tokens, decoder.project_memory(memory), None, caches)
    layers = theirs.past_key_values.self_attention_cache.layers
    assert len(caches) == len(layers)
    for cache, layer in zip(caches, layers):
        assert isinstance(cache, KVCache)
        assert torch.allclose(cache.keys, layer.keys, rtol=0, atol=1e-10)
        assert torch.allclose(cache.values, layer.values, rtol=0, atol=1e-10)
