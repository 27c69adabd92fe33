# pytest tests/transcription/test_word_times.py
"""Word times of joined recordings: the words of the bundled sample, in other orders.

The recordings of `tests/benchmarks/word_times.py` are many more, by six speakers.
"""

import io
from itertools import permutations

import numpy as np
import pytest
import soundfile
from helpers.spoken_numbers import DIGITS, join_clips, locate_german, split_german

import nanos2t
from nanos2t.inspection import report
from nanos2t.transcription import alignment
from nanos2t.transcription.forced_alignment import align_text
from nanos2t.transcription.loading import BUNDLED

RATE = 8000
SAMPLE = BUNDLED.parent / "sample.wav"

# Seconds of the sample, by its waveform
SPOKEN = {2: (0.06, 0.49), 4: (0.93, 1.51), 7: (1.95, 2.61)}


@pytest.fixture(scope="module")
def stt():
    return nanos2t.load()


@pytest.fixture(scope="module")
def recordings(stt) -> list[tuple[np.ndarray, list]]:
    """All orders of two and of three words, with pauses from 0.05 to 0.4 s."""
    sample = stt.load_audio(SAMPLE)
    clips = {}
    for digit, (start, end) in SPOKEN.items():
        clips[digit] = sample[round(start * RATE) : round(end * RATE)]

    rng = np.random.default_rng(0)
    joined = []
    for count in (2, 3):
        for digits in permutations(SPOKEN, count):
            pauses = rng.uniform(0.05, 0.4, count).tolist()
            parts = [(digit, clips[digit]) for digit in digits]
            joined.append(join_clips(parts, pauses, RATE, rng.uniform(0.05, 0.5)))
    return joined


def test_onsets_of_verbatim_text(stt, recordings):
    errors = []
    results = stt.transcribe_many(
        [waveform for waveform, _ in recordings], sample_rate=RATE, language="verbatim", words=True
    )
    for result, (_, spoken) in zip(results, recordings, strict=True):
        if result.text == " ".join(DIGITS[item.digit] for item in spoken):
            errors += [abs(w.start - s.start) for w, s in zip(result.words, spoken)]
    assert len(errors) >= 24
    assert np.median(errors) <= 0.05 and np.percentile(errors, 95) <= 0.17


def test_parts_of_a_german_number_are_where_their_digits_were_said(stt, recordings):
    located = []
    for waveform, spoken in recordings:
        located += locate_german(stt, waveform, spoken) or []
    assert len(located) >= 24
    assert np.mean(located) >= 0.9


def test_parts_of_german_numbers():
    assert split_german([2, 4, 7]) == [
        ("zwei", [0]), ("hundert", []), ("sieben", [2]), ("und", []), ("vierzig", [1]),
    ]  # fmt: skip
    assert split_german([3, 0, 1, 2])[2:] == [("zwölf", [2, 3])]
    assert split_german([1, 7]) == [("sieb", [1]), ("zehn", [0])]
    assert split_german([0]) == [("null", [0])] and split_german([1]) == [("eins", [0])]


def as_wav(waveform: np.ndarray) -> io.BytesIO:
    """`align` does not cut the silence at the end: it is given the part that the others process."""
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, "FLOAT", format="WAV")
    file.seek(0)
    return file


@pytest.mark.parametrize("language", ["verbatim", "en", "de", "da"])
def test_transcribe_report_and_align_agree(stt, language: str):
    """They give the same words at the same times, of heads that are stored with the model."""
    result = stt.transcribe(SAMPLE, language=language, words=True)
    [piece] = report.analyse_recording(stt, SAMPLE, "a", language, num_beams=1)["pieces"]
    waveform = stt.load_audio(SAMPLE)[: piece["samples"]]
    aligned = align_text(stt, as_wav(waveform), result.text, language)
    times = np.array([(word.start, word.end) for word in result.words])
    shown = np.array([(word["start"], word["end"]) for word in piece["words"]])
    actual = np.array([(word.start, word.end) for word in aligned.words])

    np.testing.assert_allclose(shown, times, atol=1e-4)
    np.testing.assert_allclose(actual, times, atol=1e-3)
    assert piece["heads"] == list(stt.model.generation.alignment_heads)
    assert [word["word"] for word in piece["words"]] == [word.word for word in result.words]


def test_words_of_a_translation_begin_with_their_digits(stt):
    """A German number begins where its first digit was said, and "forty-seven" where "four" was."""
    [number] = stt.transcribe(SAMPLE, language="de", words=True).words
    assert abs(number.start - SPOKEN[2][0]) < 0.1 and SPOKEN[7][0] < number.end < 2.7
    two, _, _, forty_seven = stt.transcribe(SAMPLE, language="en", words=True).words
    assert abs(two.start - SPOKEN[2][0]) < 0.1 and two.end < SPOKEN[4][0]
    assert abs(forty_seven.start - SPOKEN[4][0]) < 0.1 and forty_seven.end > SPOKEN[7][0]


def test_words_without_a_time_of_their_own_have_that_of_the_word_before(stt):
    two, hundred, united, _ = stt.transcribe(SAMPLE, language="en", words=True).words
    assert (hundred.word, united.word) == ("hundred", "and")
    assert (hundred.start, hundred.end) == (united.start, united.end) == (two.start, two.end)


def test_a_head_that_the_decoder_lacks(stt):
    with pytest.raises(ValueError, match="has layer 1, head 6, expected layers below 2"):
        stt.transcribe(SAMPLE, words=True, alignment_heads=[[1, 6]])
    with pytest.raises(ValueError, match="alignment_heads is .*, expected a list of pairs"):
        stt.transcribe(SAMPLE, words=True, alignment_heads=[1, 2])


def test_without_stored_heads_verbatim_text_chooses_them(stt):
    options = alignment.AlignmentOptions(monotone=True, heads=None)
    tokens = stt.transcribe(SAMPLE).tokens
    memory, _ = stt.model.encode(stt.prepare([stt.load_audio(SAMPLE)])[0])
    positions = alignment.find_text(stt.tokenizer, tokens)
    aligned = alignment.align_tokens(stt.model, tokens, positions, memory, 3.3, options)
    assert len(aligned.heads) == 2
    starts = [SPOKEN[digit][0] for digit in (2, 4, 7)]
    np.testing.assert_allclose(aligned.times[:, 0], starts, atol=0.25)
