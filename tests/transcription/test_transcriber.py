# pytest tests/transcription/test_transcriber.py
"""nanos2t/transcription/transcriber.py: results against the model's own generate, whatever the batch and the source."""

import io
import json
import shutil
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import (
    DECODER,
    ENCODER,
    ENDS,
    LANGUAGES,
    PIECES,
    RATE,
    SOUNDS,
    save_tiny,
    sound,
    write,
)

import nanos2t
from nanos2t.transcription import loading, recordings, transcriber
from nanos2t.transcription.hypotheses import cut_loop
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.results import Result, Segment
from nanos2t.transcription.segmentation import Limits
from nanos2t.transcription.transcriber import SpeechToText

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model, dtype="float64")


@cache
def bundled() -> SpeechToText:
    return nanos2t.load(dtype=torch.float64)


def assert_same(left: Result, right: Result) -> None:
    assert (left.text, left.tokens, left.language, left.nbest) == (
        right.text,
        right.tokens,
        right.language,
        right.nbest,
    )
    assert left.score == pytest.approx(right.score, abs=1e-6)  # scores are float32
    assert left.token_logprobs == pytest.approx(right.token_logprobs, abs=1e-6)
    assert [word.word for word in left.words] == [word.word for word in right.words]
    for one, other in zip(left.words, right.words):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=1e-9)
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
    assert [(item.start, item.end, item.text) for item in left.segments] == [
        (item.start, item.end, item.text) for item in right.segments
    ]


@pytest.mark.parametrize("seconds", [0.01, 0.37, 1.0, 2.5, 30.0])
def test_blocks_are_of_one_length(stt, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(transcriber, "BLOCK_SECONDS", seconds)
    waveform, size = sound(5.003), round(seconds * RATE)
    for source in waveform, write(tmp_path / "a.wav", waveform):
        blocks = list(stt.read_blocks(source, RATE))
        assert all(len(block) == size for block in blocks[:-1]) and 0 < len(blocks[-1]) <= size
        assert np.array_equal(np.concatenate(blocks), waveform)


# what a result is


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.4}]
)
def test_a_result_is_what_the_model_generates(stt: SpeechToText, options: dict):
    """Written out once: prepare, generate, cut behind EOS, decode."""
    ended = set()
    for waveform in SOUNDS:
        values = torch.tensor(
            (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        ).double()[None]
        values = torch.nn.functional.pad(values, (0, max(0, ENCODER.min_samples - len(waveform))))
        found = stt.model.generate(values, return_dict_in_generate=True, **options)
        tokens = found.sequences[0].tolist()
        end = next((i for i in range(1, len(tokens)) if tokens[i] in ENDS), len(tokens))
        tokens = tokens[: end + 1]
        ended.add(len(tokens))
        result = stt.transcribe(waveform, sample_rate=RATE, **options)
        assert result.tokens == tokens and tokens[:2] == [1, 4] and 0 not in tokens
        assert (
            result.text == " ".join(PIECES[token] for token in tokens if token > 4) == str(result)
        )
        assert result.score == pytest.approx(found.sequences_scores[0].item(), abs=1e-6)
        assert result.token_logprobs == pytest.approx(
            found.token_logprobs[0, : len(tokens) - 1].tolist(), abs=1e-5
        )
        penalty = options.get("length_penalty", 1.0)
        assert sum(result.token_logprobs) / (len(tokens) - 1) ** penalty == pytest.approx(
            result.score, abs=1e-6
        )
        assert result.nbest == [stt.tokenizer.decode(row) for row in found.sequences]
        seconds = len(waveform) / RATE
        assert result.segments == ([Segment(0.0, seconds, result.text)] if result.text else [])
        assert result.language == "de" and result.words == []
        assert isinstance(result.score, float) and all(
            type(token) is int for token in result.tokens
        )
    assert len(ended) > 3, "the sounds are too alike to test anything"


def test_draws_are_sorted(stt: SpeechToText):
    options = {"do_sample": True, "num_return_sequences": 7, "max_length": 6}
    values, mask = stt.prepare([SOUNDS[1]])
    torch.manual_seed(3)
    found = stt.model.generate(values, mask, return_dict_in_generate=True, **options)
    order = found.sequences_scores.argsort(descending=True)
    assert order.tolist() != sorted(order.tolist())
    torch.manual_seed(3)
    result = stt.transcribe(SOUNDS[1], sample_rate=RATE, **options)
    assert result.nbest == [stt.tokenizer.decode(found.sequences[row]) for row in order]
    assert result.text == result.nbest[0] and result.score == pytest.approx(
        found.sequences_scores.max().item()
    )


def test_words(stt: SpeechToText):
    for waveform in SOUNDS:
        result = stt.transcribe(waveform, sample_rate=RATE, words=True)
        assert " ".join(word.word for word in result.words) == result.text
        assert all(0 <= word.start <= word.end <= len(waveform) / RATE for word in result.words)
        assert all(0 < word.probability <= 1 for word in result.words)
        assert result.segments == [] or result.segments[0].words == tuple(result.words)


def test_only_words_that_follow_the_sound_are_in_order(model: Path, tmp_path: Path, monkeypatch):
    """A translation is timed word by word; what is written as it is spoken, in order."""
    asked = []
    monkeypatch.setattr(
        transcriber.alignment, "find_words", lambda *arguments: asked.append(arguments[-1]) or []
    )
    save_tiny(tmp_path / "monolingual")
    file = shutil.copytree(model, tmp_path / "verbatim") / "generation_config.json"
    file.write_text(file.read_text().replace('"en"', '"verbatim"'))
    for name, language in ("monolingual", None), ("verbatim", "verbatim"), ("verbatim", "de"):
        stt = nanos2t.load(tmp_path / name)
        stt.transcribe(SOUNDS[1], sample_rate=RATE, language=language, words=True)
    assert asked == [True, True, False]


SILENCES = [np.zeros(4000), np.zeros(1), np.full(900, 0.25), np.full(3, -1.0)]


@pytest.mark.parametrize(
    "options", [{}, {"words": True}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_silence_is_no_text(stt: SpeechToText, options: dict):
    for waveform in SILENCES:
        result = stt.transcribe(waveform.astype(np.float32), sample_rate=RATE, **options)
        count = options.get("num_return_sequences", 1)
        assert result == Result("", 0.0, [], [], "de", [], [], [""] * count)
    mixed = [SOUNDS[0], SILENCES[0], SOUNDS[1], SILENCES[1]]
    many = [str(result) for result in stt.transcribe_many(mixed, sample_rate=RATE, **options)]
    assert many == [str(stt.transcribe(item, sample_rate=RATE, **options)) for item in mixed]
    assert many[1] == many[3] == "" and many[0] and many[2]


# batches


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"words": True, "language": "en"},
        {"num_beams": 3, "num_return_sequences": 3, "early_stopping": True},
        {"num_beams": 2, "words": True},
    ],
)
def test_the_batch_changes_nothing(stt: SpeechToText, options: dict):
    alone = [stt.transcribe(waveform, sample_rate=RATE, **options) for waveform in SOUNDS]
    assert (
        len({result.text for result in alone}) > 5
        and len({len(result.tokens) for result in alone}) > 1
    )
    for size in 2, 3, 8, 100:
        for one, other in zip(
            alone, stt.transcribe_many(SOUNDS, size, sample_rate=RATE, **options), strict=True
        ):
            assert_same(one, other)


def test_the_batch_changes_nothing_of_the_bundled_model():
    sounds = [SOUNDS[i] for i in (1, 0, 2, 3)] + [np.zeros(500, np.float32)]
    options = {"sample_rate": RATE, "language": "de", "words": True}
    alone = [bundled().transcribe(waveform, **options) for waveform in sounds]
    for one, other in zip(alone, bundled().transcribe_many(sounds, 5, **options), strict=True):
        assert_same(one, other)


def test_sources_are_read_as_they_are_needed(stt: SpeechToText):
    """One at a time, each when the one before is done; else some batches ahead, to be sorted by length."""
    read = []

    def sources():
        for waveform in SOUNDS[:7]:
            read.append(len(read))
            yield waveform

    results = stt.transcribe_many(sources(), 1, sample_rate=RATE)
    assert read == []
    for count in 1, 2, 3:
        next(results)
        assert len(read) == count
    read.clear()
    results = stt.transcribe_many(sources(), 2, sample_rate=RATE)
    next(results)
    assert len(read) == 4
    next(results), next(results), next(results)
    assert len(read) == 4
    assert len(list(results)) == 3 and list(stt.transcribe_many([])) == []


def test_batches_are_of_similar_length(stt: SpeechToText, monkeypatch):
    whole, batches = SpeechToText.transcribe_batch, []

    def spy(self, waveforms, call):
        batches.append([len(waveform) for waveform in waveforms])
        return whole(self, waveforms, call)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", spy)
    assert len(list(stt.transcribe_many(SOUNDS, 3, sample_rate=RATE))) == len(SOUNDS)
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(map(len, SOUNDS), reverse=True) and list(map(len, batches)) == [
        3,
        3,
        2,
    ]


def test_memory_is_given_back_after_many_pieces(stt: SpeechToText, monkeypatch):
    asked = []
    monkeypatch.setattr(transcriber, "release_memory", lambda: asked.append(1))
    stt.transcribe(SOUNDS[0], sample_rate=RATE)
    list(stt.transcribe_many(SOUNDS * 2, 2, sample_rate=RATE))
    assert asked == []
    list(stt.transcribe_many(SOUNDS * 4, 4, sample_rate=RATE))
    assert asked == [1, 1]
    monkeypatch.undo()
    assert recordings.release_memory() is None
    monkeypatch.setattr(
        recordings.ctypes, "CDLL", lambda name: object()
    )  # a system that has no such thing
    assert recordings.release_memory() is None


def test_one_that_fails(stt: SpeechToText, tmp_path: Path):
    """It raises when its turn comes, or stands where its result would stand."""
    good, bad = write(tmp_path / "good.wav", SOUNDS[1]), tmp_path / "none.wav"
    results = stt.transcribe_many([good, good, bad, good], 3)
    assert str(next(results)) == str(next(results)) == str(stt.transcribe(good))
    with pytest.raises(ValueError, match=r"none\.wav"):
        next(results)
    for size in 1, 2, 4:
        outcomes = list(stt.transcribe_many([bad, good, bad, bad, good], size, return_errors=True))
        assert [type(outcome) for outcome in outcomes] == [
            ValueError,
            Result,
            ValueError,
            ValueError,
            Result,
        ]
        assert str(outcomes[1]) == str(outcomes[4]) == str(stt.transcribe(good))


def test_want_of_memory_fails_one_batch(stt: SpeechToText, monkeypatch):
    whole = SpeechToText.transcribe_batch

    def small(self, waveforms, call):
        if any(len(waveform) > RATE for waveform in waveforms):
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return whole(self, waveforms, call)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", small)
    outcomes = list(stt.transcribe_many(SOUNDS, 2, sample_rate=RATE, return_errors=True))
    failed = [isinstance(outcome, ValueError) for outcome in outcomes]
    # of the first four, sorted, the second is with the fourth; of the others the seventh with the sixth
    assert failed == [False, True, False, True, False, True, True, False]
    with pytest.raises(ValueError, match="not enough memory"):
        list(stt.transcribe_many(SOUNDS, 1, sample_rate=RATE))
    monkeypatch.setattr(
        SpeechToText, "transcribe_batch", lambda *_: torch.zeros(2) @ torch.zeros(3)
    )
    with pytest.raises(RuntimeError):
        list(stt.transcribe_many(SOUNDS, sample_rate=RATE, return_errors=True))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_a_size(stt: SpeechToText, size: int):
    with pytest.raises(ValueError, match=f"batch_size is {size}"):
        next(stt.transcribe_many(SOUNDS, size, sample_rate=RATE))


@pytest.mark.parametrize("sources", ["a.wav", b"RIFF", Path("a.wav")])
def test_one_file_is_no_list_of_files(stt: SpeechToText, sources):
    with pytest.raises(ValueError, match="sources: found .*, expected a list of files"):
        next(stt.transcribe_many(sources))


# sources


def test_the_same_from_every_source(stt: SpeechToText, tmp_path: Path):
    path, waveform = write(tmp_path / "a b ü.wav", SOUNDS[1]), SOUNDS[1]
    expected = stt.transcribe(path)
    assert expected.text
    with path.open("rb") as file:
        assert_same(stt.transcribe(file), expected)
    for source in str(path), path.read_bytes(), io.BytesIO(path.read_bytes()):
        assert_same(stt.transcribe(source), expected)
    for array in (
        waveform,
        waveform.astype(np.float64),
        torch.tensor(waveform),
        torch.tensor(waveform).double(),
    ):
        assert_same(stt.transcribe(array, sample_rate=RATE), expected)
    with path.open("rb") as file:
        for result in stt.transcribe_many(
            [path, file, path.read_bytes(), waveform], sample_rate=RATE
        ):
            assert_same(result, expected)


def test_integers_and_other_rates(stt: SpeechToText, tmp_path: Path):
    integers = (SOUNDS[1] * 32767).astype(np.int16)
    path = write(tmp_path / "16 bits.wav", integers, subtype="PCM_16")
    assert_same(stt.transcribe(path), stt.transcribe(integers, sample_rate=RATE))
    path = write(tmp_path / "rate.wav", SOUNDS[1], 11025)
    assert_same(stt.transcribe(path), stt.transcribe(SOUNDS[1], sample_rate=11025))
    assert stt.transcribe(path).segments[0].end == pytest.approx(
        len(SOUNDS[1]) / 11025, abs=2 / RATE
    )
    assert stt.transcribe(path).score != stt.transcribe(SOUNDS[1], sample_rate=RATE).score


@pytest.mark.parametrize(
    "source",
    [
        "no/such.wav",
        b"",
        b"no audio",
        io.BytesIO(),
        io.StringIO("text"),
        None,
        7,
        [0.1, 0.2],
        SOUNDS[0][None],
        np.array(["a"]),
        np.array([0.0, np.nan]),
        torch.tensor([0.0, torch.inf]),
        np.zeros(0),
    ],
    ids=lambda source: type(source).__name__,
)
def test_what_is_no_sound_is_a_value_error(stt: SpeechToText, source):
    with pytest.raises(ValueError, match=r"\S") as error:
        stt.transcribe(source, sample_rate=RATE)
    assert "\n" not in str(error.value)
    [outcome] = stt.transcribe_many([source], sample_rate=RATE, return_errors=True)
    assert isinstance(outcome, ValueError)


def test_an_array_needs_its_rate(stt: SpeechToText):
    for rate in None, 0, -8000:
        with pytest.raises(ValueError, match="sample_rate"):
            stt.transcribe(SOUNDS[0], sample_rate=rate)


def test_prepare(stt: SpeechToText, model: Path, tmp_path: Path):
    waveforms = [SOUNDS[0], torch.tensor(SOUNDS[1]), SOUNDS[4].astype(np.float64)]
    values, mask = stt.prepare(waveforms)
    assert values.shape == mask.shape == (3, len(SOUNDS[1])) and values.dtype == torch.float64
    for row, ones, waveform in zip(values, mask, waveforms):
        size = len(waveform)
        assert ones.tolist() == [1] * max(size, ENCODER.min_samples) + [0] * (
            len(ones) - max(size, ENCODER.min_samples)
        )
        assert abs(row[:size].mean()) < 1e-6 and row[:size].std(correction=0) == pytest.approx(
            1, abs=1e-4
        )
        assert not row[size:].any()
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"sampling_rate": 8000, "do_normalize": false}'
    )
    raw = nanos2t.load(tmp_path)
    values, mask = raw.prepare([SOUNDS[1], SOUNDS[0]])
    assert values.dtype == torch.float32 and values[0].numpy() == pytest.approx(SOUNDS[1])
    for wrong in [], [np.zeros((2, 2))], [np.array([np.nan])], SOUNDS[0]:
        with pytest.raises(ValueError):
            stt.prepare(wrong)


# long audio


def digits(times: list[float], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The bundled sample at these times in silence: the recording (L,), and the sample by itself."""
    one = bundled().load_audio(BUNDLED.parent / "sample.wav")
    waveform = np.zeros(round(seconds * RATE), np.float32)
    for time in times:
        waveform[round(time * RATE) :][: len(one)] += one
    return waveform, one


def test_a_recording_is_heard_piece_by_piece():
    """As often as it is said, in any language, at its time; what is between is no text."""
    times = [0.0, 7.5, 40.0, 63.3]
    waveform, one = digits(times, 70.0)
    for language in "verbatim", "de":
        alone = bundled().transcribe(one, sample_rate=RATE, language=language, words=True)
        result = bundled().transcribe(waveform, sample_rate=RATE, language=language, words=True)
        assert (
            alone.text and result.text == " ".join([alone.text] * 4) and len(result.segments) == 4
        )
        assert [item.text for item in result.segments] == [alone.text] * 4
        starts = [item.words[0].start for item in result.segments]
        assert starts == pytest.approx([time + alone.words[0].start for time in times], abs=0.1)
        assert result.words == [word for item in result.segments for word in item.words]
        for item in result.segments:
            assert all(item.start <= word.start <= word.end <= item.end for word in item.words)
        assert all(a.end <= b.start for a, b in zip(result.segments, result.segments[1:]))


def test_a_file_and_an_array_are_cut_alike(tmp_path: Path):
    waveform, _ = digits([1.0, 31.0], 66.0)
    from_file = bundled().transcribe(write(tmp_path / "long.wav", waveform))
    assert_same(from_file, bundled().transcribe(waveform, sample_rate=RATE))
    with open(tmp_path / "long.wav", "rb") as file:
        assert_same(from_file, bundled().transcribe(file))


@pytest.mark.parametrize("loud", [0.0, 1e-5, 1e-3, 0.1])
def test_long_silence_and_noise_are_no_text(loud: float):
    noise = loud * np.random.default_rng(2).standard_normal(40 * RATE).astype(np.float32)
    assert bundled().transcribe(noise, sample_rate=RATE).segments == []


def test_the_limits_of_the_bundled_model():
    """Training has at most four digits, and pauses of 0.8 seconds."""
    assert bundled().limits == Limits(5, 4) and bundled().limits.pause == 100


def test_progress(stt: SpeechToText):
    waveform, done = digits([1.0, 31.0], 66.0)[0], []
    bundled().transcribe(waveform, sample_rate=RATE, progress=done.append)
    assert sum(done) == pytest.approx(66.0) and min(done) >= 0 and len(done) > 1
    done.clear()
    list(
        stt.transcribe_many(
            [*SOUNDS, np.zeros(0)], 3, sample_rate=RATE, progress=done.append, return_errors=True
        )
    )
    assert sum(done) == pytest.approx(sum(map(len, SOUNDS)) / RATE)


@pytest.mark.parametrize("tokens, expected", [
    ([1, 4, 7, 8, 9], ([1, 4, 7, 8, 9], 0)),
    ([1, 4, *[7] * 15], ([1, 4, *[7] * 15], 0)),
    ([1, 4, *[7] * 16], ([1, 4, 7], 15)),
    ([1, 4, 5, *[7, 8, 9] * 6], ([1, 4, 5, 7, 8, 9], 5)),
    ([1, 4, 5, *[7, 8, 9] * 6, 7, 8], ([1, 4, 5, 7, 8, 9], 5)),
    ([1, 4, *[7] * 31, 2], ([1, 4, *[7] * 31, 2], 0)),
    ([1, 4, *[7] * 32, 2], ([1, 4, 7], 31)),
    ([1, *range(10, 17), *range(10, 17), *range(10, 17)], ([1, *[*range(10, 17)] * 3], 0)),
    ([1], ([1], 0)),
])  # fmt: skip
def test_loops_are_cut(tokens: list[int], expected: tuple):
    assert cut_loop(tokens, [2, 3]) == expected


def test_a_loop_is_said(tmp_path: Path):
    """This model says the same over and over: once is kept, with its times and a warning."""
    stt = nanos2t.load(
        save_tiny(tmp_path, eos_token_id=None, pad_token_id=0, max_length=18), dtype="float64"
    )
    stt.model.decoder.head.bias.data[20] = 99.0
    with pytest.warns(
        UserWarning, match=r"^audio: 0\.0 s: the model repeated the end of 'w20' 16 times$"
    ):
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, words=True)
    assert result.text == "w20" == result.nbest[0] and result.tokens == [1, 20]
    assert (
        len(result.words) == len(result.token_logprobs) == 1 and result.segments[0].repeated == 16
    )
    with pytest.warns(UserWarning, match=r"a\.wav: 0\.0 s"):
        stt.transcribe(write(tmp_path / "a.wav", SOUNDS[1]))


def test_threads_share_a_model(stt: SpeechToText, tmp_path: Path):
    """Each asks for something else; a second model that is loaded and used meanwhile disturbs neither."""
    other, failures = save_tiny(tmp_path, seed=7), []
    second = nanos2t.load(other, dtype="float64")
    wishes = [
        {"language": "en"},
        {"language": "de", "num_beams": 3},
        {"words": True},
        {"max_length": 5},
    ]
    wishes = [{"sample_rate": RATE, **wish} for wish in wishes]
    expected = [[stt.transcribe(waveform, **wish) for waveform in SOUNDS] for wish in wishes]
    of_second = [second.transcribe(waveform, sample_rate=RATE) for waveform in SOUNDS]
    assert len({tuple(map(str, results)) for results in [*expected, of_second]}) == 5

    def work(number: int) -> None:
        try:
            order = [(i + number) % len(SOUNDS) for i in range(len(SOUNDS))]
            new, wish = nanos2t.load(other, dtype="float64"), wishes[number]
            for i in order:
                assert_same(new.transcribe(SOUNDS[i], sample_rate=RATE), of_second[i])
                assert_same(stt.transcribe(SOUNDS[i], **wish), expected[number][i])
            found = stt.transcribe_many([SOUNDS[i] for i in order], 3, **wish)
            for result, i in zip(found, order, strict=True):
                assert_same(result, expected[number][i])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# languages and options


def test_languages(stt: SpeechToText):
    assert stt.languages == ("en", "de") or stt.languages == ("de", "en")
    texts = set()
    for language, token in LANGUAGES.items():
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, language=language)
        assert result.language == language and result.tokens[1] == token
        texts.add(result.text)
        assert [result.language] == [
            one.language
            for one in stt.transcribe_many(SOUNDS[:1], 1, sample_rate=RATE, language=language)
        ]
    assert len(texts) == 2
    assert stt.transcribe(SOUNDS[1], sample_rate=RATE, language="German").language == "de"
    for name in "xx", "", "French":
        for call in (
            stt.transcribe,
            lambda *source, **more: next(stt.transcribe_many(source, **more)),
        ):
            with pytest.raises(ValueError, match=f"language '{name}'.* (de, en|en, de)$"):
                call(SOUNDS[0], sample_rate=RATE, language=name)


def test_languages_of_the_bundled_model():
    ids = json.loads((BUNDLED / "generation_config.json").read_text())["lang_to_id"]
    assert set(bundled().languages) == set(ids) and {"verbatim", "en", "de"} <= set(ids)


def test_a_monolingual_model(tmp_path: Path):
    stt = nanos2t.load(save_tiny(tmp_path))
    assert stt.languages == () and stt.transcribe(SOUNDS[1], sample_rate=RATE).language is None
    with pytest.raises(ValueError, match="language 'en'.*none"):
        stt.transcribe(SOUNDS[1], sample_rate=RATE, language="en")


@pytest.mark.parametrize(
    "option, value",
    [
        ("num_beam", 2),
        ("num_beams", 0),
        ("temperature", 0.0),
        ("top_p", 2.0),
        ("num_return_sequences", 2),
    ],
)
def test_a_wrong_option_is_named(stt: SpeechToText, option: str, value):
    with pytest.raises(ValueError, match=option):
        stt.transcribe(SOUNDS[0], sample_rate=RATE, **{option: value})
    with pytest.raises(ValueError, match=option):
        next(stt.transcribe_many([], sample_rate=RATE, **{option: value}))


def test_no_more_tokens_than_positions(tmp_path: Path):
    """The checkpoint's wish is cut to what its decoder can do; the user's is an error."""
    stt = nanos2t.load(save_tiny(tmp_path, max_length=500, eos_token_id=None, pad_token_id=0))
    result = stt.transcribe(SOUNDS[1], sample_rate=RATE)
    assert len(result.tokens) == DECODER.max_positions + 1
    assert len(stt.transcribe(SOUNDS[1], sample_rate=RATE, max_length=18).tokens) == 18
    assert len(stt.transcribe(SOUNDS[1], sample_rate=RATE, max_new_tokens=3).tokens) == 4
    for options in {"max_length": 19}, {"max_new_tokens": 18}:
        with pytest.raises(ValueError, match="max_length is 19, expected at most 18"):
            stt.transcribe(SOUNDS[1], sample_rate=RATE, **options)


# loading


def test_a_folder_with_the_model_only(tmp_path: Path):
    stt = nanos2t.load(save_tiny(tmp_path, tokenizer=False, preprocessor=False))
    assert stt.tokenizer is None and stt.sample_rate == 16000 and stt.normalise is True
    alone = [stt.transcribe(waveform, sample_rate=16000, words=True) for waveform in SOUNDS]
    together = stt.transcribe_many(SOUNDS, sample_rate=16000, words=True)
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text == " ".join(map(str, one.tokens)) and one.words == []
        assert one.tokens[0] == 1 and not {0, *ENDS} & set(one.tokens[:-1])
    assert stt.transcribe(np.zeros(99, np.int16), sample_rate=16000).text == ""


@pytest.mark.parametrize("content, expected", [
    ({"sampling_rate": 11025}, (11025, True)),
    ({"do_normalize": False}, (16000, False)),
    ({}, (16000, True)),
    ({"feature_extractor": None, "sampling_rate": 8000}, (8000, True)),
])  # fmt: skip
def test_the_rate_stands_in_either_file(tmp_path: Path, content: dict, expected: tuple):
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"feature_extractor": content, "processor_class": "x"})
    )
    assert loading.read_preprocessor(tmp_path) == loading.Preprocessor(*expected)
    (tmp_path / "processor_config.json").write_text(
        '{"feature_extractor": {"sampling_rate": 4000}}'
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert loading.read_preprocessor(tmp_path) == loading.Preprocessor(*expected)


def test_limits_stand_there_too(tmp_path: Path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"chunk_length": 20, "chunk_sounds": 7}')
    assert loading.read_preprocessor(tmp_path).limits == Limits(20, 7)
    for wrong in (
        '"chunk_length": 0.5',
        '"chunk_length": "5"',
        '"chunk_length": Infinity',
        '"chunk_sounds": 0',
    ):
        file.write_text("{" + wrong + "}")
        name, value = wrong.replace('"', "").split(": ")
        with pytest.raises(
            ValueError, match=rf"preprocessor_config\.json: {name} is .*{value[:3].lower()}"
        ):
            loading.read_preprocessor(tmp_path)


@pytest.mark.parametrize("content", [
    "{", "[]", '{"sampling_rate": "8000"}', '{"sampling_rate": 0}', '{"sampling_rate": true}',
    '{"sampling_rate": 8000000}',
    '{"sampling_rate": null}', '{"do_normalize": "false"}', '{"feature_extractor": {"sampling_rate": null}}',
])  # fmt: skip
def test_a_broken_preprocessor_is_named(model: Path, tmp_path: Path, content: str):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        nanos2t.load(tmp_path)


@pytest.mark.parametrize("name", list(loading.DTYPES))
def test_dtypes(model: Path, name: str):
    for dtype in name, getattr(torch, name):
        stt = nanos2t.load(model, dtype=dtype)
        assert {weight.dtype for weight in stt.model.parameters()} == {getattr(torch, name)}
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, words=True)
        assert result.text and np.isfinite(result.score) and result.words


def test_single_precision_is_close(model: Path, stt: SpeechToText):
    single = nanos2t.load(model).transcribe(SOUNDS[1], sample_rate=RATE)
    assert single.score == pytest.approx(
        stt.transcribe(SOUNDS[1], sample_rate=RATE).score, abs=1e-4
    )


@pytest.mark.parametrize("dtype", ["int4", "", "float", None, torch.int64, "nn"])
def test_an_unknown_dtype_is_an_error(dtype):
    with pytest.raises(ValueError, match="dtype is .*expected one of float32, float64, bfloat16"):
        nanos2t.load(dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "meta", None, torch.device("meta")])
def test_an_unknown_device_is_an_error(device):
    with pytest.raises(ValueError, match="device is .*expected one of auto, .*cpu"):
        nanos2t.load(device=device)


def test_devices(monkeypatch, model: Path):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert loading.choose_device("auto") == loading.choose_device(torch.device("cpu")) == "cpu"
    assert nanos2t.load(model, device="auto").model.encoder.norm.weight.device.type == "cpu"
    with pytest.raises(ValueError, match="'cuda', expected one of auto, cpu"):
        loading.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, chosen in (
        ("auto", "cuda:0"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
    ):
        assert loading.choose_device(name) == chosen
    with pytest.raises(ValueError, match="'cuda:2', expected one of auto, cuda:0, cuda:1, cpu"):
        loading.choose_device("cuda:2")


def test_an_empty_name_is_not_the_bundled_model(tmp_path: Path, monkeypatch):
    """Nor the folder where one is, be there a model in it."""
    monkeypatch.chdir(save_tiny(tmp_path))
    with pytest.raises(ValueError, match="name of the model is '', expected a folder"):
        nanos2t.load("")


def test_the_bundled_sample():
    sample = BUNDLED.parent / "sample.wav"
    if not sample.exists():
        pytest.skip("there is no sample yet")
    digits = set("zero one two three four five six seven eight nine".split())
    result = bundled().transcribe(sample, language="verbatim", words=True)
    assert result.text and set(result.text.split()) <= digits
    starts = [word.start for word in result.words]
    assert starts == sorted(starts) and " ".join(word.word for word in result.words) == result.text
