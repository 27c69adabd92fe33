# pytest tests/transcription/test_alignment.py
"""nanos2t/transcription/alignment.py: held against the decoder and many tokenizers."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from helpers.pairs import spread_
from helpers.tiny import ENCODER as TINY_ENCODER

from nanos2t import wav2vec2
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import alignment
from nanos2t.wav2vec2 import attend

tokenizers = pytest.importorskip("tokenizers")

ENCODER = replace(TINY_ENCODER, conv_kernels=(5, 3, 2), conv_strides=(3, 2, 1))
SIZES = {
    "hidden_size": 28,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 33,
    "max_positions": 37,
}
PRE_NORM = {"pre_norm": True, "embed_norm": False}
DECODERS = {
    "bert": DecoderConfig.bert(43, **SIZES),
    "gpt2": DecoderConfig(43, **SIZES, **PRE_NORM, activation="gelu_tanh"),
    "bart": DecoderConfig(43, **SIZES, position_offset=2),
    "mbart": DecoderConfig(
        43, **SIZES, pre_norm=True, embed_scale=28**0.5, position_offset=2, tied=False
    ),
}
MONOTONE = alignment.AlignmentOptions()
IDS = GenerationConfig(pad_token_id=1, decoder_start_token_id=2, eos_token_id=3)
TOKENS = torch.tensor([2, 7, 30, 12, 7, 41, 9, 3])


@cache
def tiny(name: str) -> SpeechEncoderDecoder:
    return spread_(SpeechEncoderDecoder.from_configs(ENCODER, DECODERS[name], IDS).double().eval())


def random_memory(frames: int) -> torch.Tensor:
    return torch.randn(
        1, frames, 28, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )


# the weights


@pytest.mark.parametrize("name", DECODERS)
def test_the_pass_in_parts_is_the_decoder(name: str):
    model, memory = tiny(name), random_memory(17)
    logits, weights = alignment.run_decoder(model.decoder, TOKENS, memory)
    expected = model.decoder(TOKENS[None], model.decoder.project_memory(memory))[0]
    assert (logits - expected).abs().max() < 1e-10
    assert weights.shape == (3, 4, 8, 17)
    assert (weights.sum(3) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("name", DECODERS)
def test_the_weights_are_those_that_attend_applies(name: str, monkeypatch):
    """Mixed by them, the values are what every block's own cross-attention mixes."""
    model, memory, mixed = tiny(name), random_memory(17), []

    def attend_(queries, keys, values, *rest, **more):
        actual = attend(queries, keys, values, *rest, **more)
        mixed.extend(
            [(values, actual)] * (keys.shape[2] == 17)
        )  # else the tokens attend to themselves
        return actual

    monkeypatch.setattr(wav2vec2, "attend", attend_)
    _, weights = alignment.run_decoder(model.decoder, TOKENS, memory)  # (layers, N, T, S)
    assert len(mixed) == len(weights) == 3
    for own, (values, actual) in zip(weights, mixed, strict=True):
        assert (own @ values[0] - actual[0]).abs().max() < 1e-12


def test_rows_do_not_see_later_tokens():
    model, memory = tiny("mbart"), random_memory(9)
    changed = TOKENS.clone()
    changed[5] = 11
    _, before = alignment.run_decoder(model.decoder, TOKENS, memory)
    _, after = alignment.run_decoder(model.decoder, changed, memory)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert (before[:, :, 5:] - after[:, :, 5:]).abs().max() > 1e-2


# the heads


def bump(centres: list[float], frames: int, width: float) -> torch.Tensor:
    distance = torch.arange(frames) - torch.tensor(centres)[:, None]
    return (-0.5 * (distance / width) ** 2).double().softmax(1)


def test_heads_that_move_on_are_chosen():
    steady = bump([15.0] * 6, 31, 0.3)
    forward = bump([2.0, 7, 11, 18, 23, 29], 31, 1.0)
    vague = bump([9.0, 11, 13, 15, 17, 19], 31, 6.0)
    uniform = torch.full((6, 31), 1 / 31, dtype=torch.float64)
    jumping = forward[[3, 0, 5, 1, 4, 2]]
    weights = torch.stack([steady, jumping, forward.flip(0), uniform, vague, forward]).view(
        2, 3, 6, 31
    )
    assert alignment.choose_heads(weights).tolist() == [[1, 2], [1, 1]]
    assert alignment.choose_heads(weights, 1).tolist() == [[1, 2]]
    assert sorted(alignment.choose_heads(weights, 9).tolist()) == [
        [i, j] for i in range(2) for j in range(3)
    ]


def test_heads_that_are_stored_are_taken():
    weights = torch.rand(2, 3, 4, 5)
    assert alignment.find_heads(weights, [[0, 2], [1, 0]]).tolist() == [[0, 2], [1, 0]]
    chosen = alignment.choose_heads(weights)
    assert alignment.find_heads(weights, None).tolist() == chosen.tolist()
    for pair in [2, 0], [0, 3]:
        with pytest.raises(ValueError, match=f"layer {pair[0]}, head {pair[1]}, expected"):
            alignment.find_heads(weights, [pair])


def test_the_score_is_the_mean_over_pairs():
    """Against the sum over all pairs of tokens and all pairs of frames, written out."""
    generator = torch.Generator().manual_seed(3)
    weights = (3 * torch.randn(2, 5, 4, 7, generator=generator, dtype=torch.float64)).softmax(3)
    frame = torch.arange(7)
    later = (frame[:, None] < frame).double() - (
        frame[:, None] > frame
    ).double()  # earlier token's, later token's
    scores = torch.zeros(2, 5, dtype=torch.float64)
    for i in range(4):
        for j in range(i + 1, 4):
            scores += torch.einsum("lns,st,lnt->ln", weights[:, :, i], later, weights[:, :, j]) / 6
    scores += 0.01 * weights.amax(3).mean(2)
    order = scores.flatten().argsort(descending=True).tolist()
    assert alignment.choose_heads(weights, 10).tolist() == [[i // 5, i % 5] for i in order]


def test_one_token_takes_the_sharpest_head():
    weights = torch.stack([bump([5.0], 11, 3.0), bump([5.0], 11, 0.5), bump([2.0], 11, 9.0)])[None]
    assert alignment.choose_heads(weights, 1).tolist() == [[0, 1]]


# peaks and times


def test_peaks_in_order_and_by_themselves():
    weights = bump([3.0, 20, 12, 27], 31, 1.0).numpy()
    weights[1] = (
        0.55 * weights[1] + 0.45 * bump([8.0], 31, 1.0).numpy()[0]
    )  # a second, lower peak in order
    assert alignment.find_peaks(weights, monotone=False).tolist() == [3, 20, 12, 27]
    assert alignment.find_peaks(weights, monotone=True).tolist() == [3, 8, 12, 27]


def test_ends_are_the_next_start_or_the_tail():
    peaks = np.array([0.05, 0.5, 0.5, 0.7, 2.0, 2.9])
    onsets = peaks - 0.1
    expected = [[0, 0.4], [0.4, 0.6], [0.4, 0.6], [0.6, 1.1], [1.9, 2.4], [2.8, 3.0]]
    assert alignment.find_extents(onsets, peaks, 3.0) == pytest.approx(np.array(expected))
    shuffled = [3, 5, 0, 4, 1, 2]
    assert alignment.find_extents(onsets[shuffled], peaks[shuffled], 3.0) == pytest.approx(
        np.array(expected)[shuffled]
    )


def test_a_small_gap_ends_no_token():
    peaks = np.array([0.5, 0.55, 0.65])
    times = alignment.find_extents(peaks - 0.1, peaks, 3.0, min_gap=0.1)
    assert times == pytest.approx(np.array([[0.4, 0.55], [0.45, 0.95], [0.55, 1.05]]))


def test_onsets_are_before_the_peak_by_the_spread_of_the_attention():
    """A wide bump begins earlier; what is far from the peak does not count."""
    weights = bump([15.0, 15.0, 2.0], 31, 0.1).numpy()
    weights[1] = bump([15.0], 31, 2.0).numpy()[0]
    weights[2] = 0.6 * weights[2] + 0.4 * bump([29.0], 31, 0.1).numpy()[0]
    peaks = weights.argmax(1)
    onsets, focus = alignment.find_onsets(weights, peaks, 0.04)
    assert onsets[0] == pytest.approx(15.1 * 0.04 - alignment.LEAD)
    assert onsets[1] == pytest.approx((15.5 - 1.2816 * 2) * 0.04 - alignment.LEAD, abs=0.01)
    assert onsets[2] == pytest.approx(2.1 * 0.04 - alignment.LEAD)
    assert focus == pytest.approx([1, 1, 0.6], abs=0.01)


def test_an_onset_where_no_attention_is():
    """The path may leave a token with a frame whose weight is 0."""
    weights = np.eye(31)[[15]]
    onsets, focus = alignment.find_onsets(weights, np.array([3]), 0.04)
    assert onsets == pytest.approx([0.9 * 0.04 - alignment.LEAD], abs=1e-6)
    assert focus == pytest.approx([0], abs=1e-6)


def test_tokens_without_a_peak_have_the_time_of_the_one_before():
    times = np.array([[0.1, 0.2], [0.5, 0.6]])
    has_peak = np.array([False, True, False, False, True, False])
    borrowed = alignment.borrow_times(times, has_peak)
    assert borrowed.tolist() == times[[0, 0, 0, 0, 1, 1]].tolist()


@dataclass
class Fixed:
    """A model whose cross-attention is known: `align_tokens` asks for nothing else."""

    decoder: torch.Tensor


def test_times_of_planted_weights(monkeypatch):
    """Input token t has the row of token t + 1; tokens that are not text do not count."""
    moving, steady = bump([29.0, 4, 0, 14, 22, 9], 30, 0.1), bump([3.0] * 6, 30, 0.2)
    weights = torch.stack([steady, moving, moving, steady]).view(2, 2, 6, 30)

    def known(decoder: torch.Tensor, tokens: torch.Tensor, memory: torch.Tensor) -> tuple:
        assert tokens.tolist() == [2, 5, 6, 7, 8, 9] and memory.shape[1] == 30
        return None, decoder

    monkeypatch.setattr(alignment, "run_decoder", known)
    tokens, memory = [2, 5, 6, 7, 8, 9, 3], torch.zeros(1, 30, 8)
    times = alignment.align_tokens(Fixed(weights), tokens, [2, 4, 5], memory, 6.0, MONOTONE).times
    # A tenth of the weight has passed a tenth of a frame after its beginning.
    starts = np.array([4.1, 14.1, 22.1]) * 6.0 / 30 - alignment.LEAD
    ends = np.array([4.5, 14.5, 22.5]) * 6.0 / 30 + alignment.TAIL
    assert times == pytest.approx(np.stack([starts, ends], 1))


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("frames", [1, 3, 11])
def test_times_stay_in_the_clip_and_in_order(monotone: bool, frames: int):
    """Also with more tokens than frames."""
    memory, seconds = random_memory(frames), 0.3
    for name in DECODERS:
        times = alignment.align_tokens(
            tiny(name),
            TOKENS.tolist(),
            range(1, 8),
            memory,
            seconds,
            alignment.AlignmentOptions(monotone),
        ).times
        assert times.shape == (7, 2)
        assert (
            (times >= 0).all() and (times <= seconds).all() and (times[:, 1] >= times[:, 0]).all()
        )
        assert not monotone or (np.diff(times, axis=0) >= 0).all()


def test_nothing_to_time():
    """One token has a time; a hypothesis without text has no words."""
    memory = random_memory(5)
    aligned = alignment.align_tokens(tiny("bert"), [2, 8], [1], memory, 1.0, MONOTONE)
    assert aligned.times.shape == (1, 2) and aligned.weights.shape == (1, 5)
    for tokens in [2], [2, 3]:
        logprobs = [0.0] * (len(tokens) - 1)
        actual = alignment.find_words(
            tiny("bert"), metaspace(), tokens, logprobs, memory, 1.0, MONOTONE
        )
        assert actual == []


def test_single_precision_and_bfloat16():
    for dtype in (torch.float32, torch.bfloat16):
        model = SpeechEncoderDecoder.from_configs(ENCODER, DECODERS["bert"], IDS).to(dtype).eval()
        times = alignment.align_tokens(
            model, TOKENS.tolist(), range(1, 8), random_memory(9).to(dtype), 1.0, MONOTONE
        ).times
        assert times.dtype == np.float64 and np.isfinite(times).all()


# the words

SENTENCES = ["zero seven six", "twenty seven thousand", "sieben zwanzig seven", "it's one , two"]


@cache
def metaspace() -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<en>"]
    trainer = trainers.BpeTrainer(vocab_size=45, special_tokens=special, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return Tokenizer(backend)


@cache
def byte_level() -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def bert_tokenizer(tmp_path_factory) -> Tokenizer:
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "it",
        "'s",
        "n't",
        "hel",
        "##lo",
        "wor",
        "##ld",
        ",",
        ".",
        "do",
        "one",
        "two",
    ]
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(pieces), encoding="utf-8")
    return Tokenizer(tokenizers.BertWordPieceTokenizer(str(file), lowercase=True))


def spelled(tokenizer: Tokenizer, pieces: list[str | int]) -> list[tuple[str, float, float]]:
    """Words of tokens by name; the i-th lasts from i to i + 1."""
    ids = [
        piece if isinstance(piece, int) else tokenizer.backend.token_to_id(piece)
        for piece in pieces
    ]
    assert None not in ids
    times = np.stack([np.arange(len(ids)), np.arange(len(ids)) + 1.0], 1)
    words = alignment.group_words(tokenizer, ids, times, [-0.1] * len(ids))
    assert " ".join(word.word for word in words) == " ".join(tokenizer.decode(ids).split())
    return [(word.word, word.start, word.end) for word in words]


@pytest.mark.parametrize("tokenizer", [metaspace(), byte_level()], ids=["metaspace", "byte level"])
@pytest.mark.parametrize(
    "text", ["nineseven", "zero seven six", "two thousand seventy", "it's one , two"]
)
def test_words_of_encoded_text(tokenizer: Tokenizer, text: str):
    """Every vocabulary cuts at other places; the pieces of each word decode to it."""
    ids = tokenizer.encode(text)
    assert len(ids) > len(text.split())
    words, start = spelled(tokenizer, ids), 0
    assert [word for word, _, _ in words] == text.split()
    for word, first, behind in words:
        assert first == start and tokenizer.decode(ids[int(first) : int(behind)]).strip() == word
        start = behind
    assert start == len(ids)


def test_words_of_metaspace():
    tokenizer = metaspace()
    assert spelled(tokenizer, ["▁seven", "▁", "z", "e", "r", "o"]) == [
        ("seven", 0, 1),
        ("zero", 1, 6),
    ]
    assert spelled(tokenizer, ["▁", "▁seven"]) == [("seven", 0, 2)]
    assert spelled(tokenizer, ["▁seven", "▁"]) == [("seven", 0, 2)]
    assert spelled(tokenizer, ["▁", "▁"]) == []


def test_words_of_word_pieces(bert_tokenizer: Tokenizer):
    assert spelled(bert_tokenizer, ["hel", "##lo", "wor", "##ld"]) == [
        ("hello", 0, 2),
        ("world", 2, 4),
    ]
    assert spelled(bert_tokenizer, ["hel", "##lo", ",", "one", "."]) == [
        ("hello,", 0, 3),
        ("one.", 3, 5),
    ]
    assert spelled(bert_tokenizer, ["it", "'s", "do", "n't", "one"]) == [
        ("it's", 0, 2),
        ("don't", 2, 4),
        ("one", 4, 5),
    ]
    assert spelled(bert_tokenizer, ["##lo", "one"]) == [("##lo", 0, 1), ("one", 1, 2)]


def test_words_of_bytes():
    """A character of several tokens is no word until it is whole."""
    tokenizer = byte_level()
    ids = tokenizer.encode("één 🙂🙂 seven")
    count = [len(tokenizer.encode(part)) for part in ("één", " 🙂🙂", " seven")]
    a, b, c = np.cumsum(count).tolist()
    assert count[1] > 5
    assert spelled(tokenizer, ids) == [("één", 0, a), ("🙂🙂", a, b), ("seven", b, c)]
    assert spelled(tokenizer, tokenizer.encode("语音识别")) == [("语音识别", 0, 12)]


class Continued:
    """Pieces end in "@@" if their word goes on, as in speech_to_text_2."""

    def decode(self, tokens: list[str], skip_special_tokens: bool = True) -> str:
        return " ".join(tokens).replace("@@ ", "").replace(" '", "'")


def test_words_that_join_later_are_one():
    pieces = ["it", "'", "re@@", "al", "one@@", "self", "'"]
    times = np.stack([np.arange(7), np.arange(7) + 1.0], 1)
    words = alignment.group_words(Continued(), pieces, times, [0.0] * 7)
    actual = [(word.word, word.start, word.end) for word in words]
    assert actual == [("it'", 0, 2), ("real", 2, 4), ("oneself'", 4, 7)]


def test_a_token_of_two_words_keeps_both():
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"so": 0, "in the": 1, "end": 2}, unk_token="so")
    )
    assert spelled(Tokenizer(backend), [0, 1, 2, 1]) == [
        ("so", 0, 1),
        ("in the", 1, 2),
        ("end", 2, 3),
        ("in the", 3, 4),
    ]


def test_probability_is_the_geometric_mean_and_times_the_hull():
    tokenizer = metaspace()
    ids = [tokenizer.backend.token_to_id(piece) for piece in ("▁seven", "▁", "z", "o")]
    times = np.array([[1.0, 1.5], [0.7, 0.9], [0.2, 0.7], [0.9, 1.0]])
    first, second = alignment.group_words(
        tokenizer, ids, times, [np.log(0.5), np.log(0.9), np.log(0.4), np.log(0.3)]
    )
    assert (first.start, first.end, first.word) == (
        1.0,
        1.5,
        "seven",
    ) and first.probability == pytest.approx(0.5)
    assert (second.start, second.end, second.word) == (0.2, 1.0, "zo")
    assert second.probability == pytest.approx((0.9 * 0.4 * 0.3) ** (1 / 3))
    assert all(type(value) is float for value in (first.start, first.end, first.probability))


# all of it


def test_words_of_a_hypothesis():
    """Special tokens are neither timed nor spelled, and do not count as sure or unsure."""
    config = DecoderConfig.bert(metaspace().backend.get_vocab_size(), **SIZES)
    model = spread_(SpeechEncoderDecoder.from_configs(ENCODER, config, IDS).double().eval())
    pieces = ["<s>", "<en>", "▁seven", "▁", "z", "<unk>", "o", "</s>", "<pad>"]
    tokens = [metaspace().backend.token_to_id(piece) for piece in pieces]
    logprobs = [-9.0, -0.5, -0.3, -0.2, -9.0, -0.1, -9.0, -9.0]
    memory = random_memory(20)

    def find(tokenizer, tokens, logprobs, monotone=True):
        options = alignment.AlignmentOptions(monotone)
        return alignment.find_words(model, tokenizer, tokens, logprobs, memory, 2.0, options)

    words = find(metaspace(), tokens, logprobs)
    assert [word.word for word in words] == ["seven", "zo"]
    assert [word.probability for word in words] == pytest.approx([np.exp(-0.5), np.exp(-0.2)])
    times = alignment.align_tokens(model, tokens, [2, 3, 4, 6], memory, 2.0, MONOTONE).times
    assert [word.start for word in words] == [times[0, 0], times[1, 0]]
    assert 0 <= words[0].start <= words[0].end and words[1].end <= 2.0

    assert find(metaspace(), tokens[:2], logprobs[:1]) == []
    assert find(metaspace(), tokens[:1], [], monotone=False) == []
    assert find(None, tokens, logprobs) == []
    [word] = alignment.find_words(
        model,
        metaspace(),
        tokens[:4],
        logprobs[:3],
        random_memory(1),
        0.02,
        alignment.AlignmentOptions(False),
    )
    assert (word.word, word.start, word.end) == ("seven", 0.0, 0.02)
