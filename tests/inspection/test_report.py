# pytest tests/inspection/test_report.py
"""nanos2t/inspection/report.py: the page has the model's numbers, and is safe to open."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from helpers.pairs import spread_
from helpers.report import EVIL, SAMPLE, as_wav, content, hostile, unpack
from helpers.tiny import DECODER, ENCODER, RATE, save_tiny, sound
from safetensors.torch import load_file

import nanos2t
from nanos2t import wav2vec2
from nanos2t.generation_config import GenerationConfig
from nanos2t.inspection import report
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription import alignment, loading
from nanos2t.transcription.transcriber import SpeechToText

# what the page is told


def test_the_run_is_what_transcribe_hears(stt, sample_run):
    result = stt.transcribe(SAMPLE, num_beams=4, words=True)
    [piece] = sample_run["pieces"]
    assert piece["text"] == result.text == piece["greedy"] == "two four seven"
    assert piece["score"] == pytest.approx(result.score, abs=1e-5)
    assert piece["tokens"] == result.tokens[1:] and sample_run["language"] == result.language
    assert piece["probabilities"] == pytest.approx(np.exp(result.token_logprobs), abs=1e-5)
    for word, found in zip(piece["words"], result.words, strict=True):
        assert word == pytest.approx(vars(found), abs=1e-5)
    assert piece["word_of"] == [-1, 0, 1, 2, -1] and piece["forced"]
    weights = load_file(loading.BUNDLED / "model.safetensors").values()
    assert sample_run["seconds"] == pytest.approx(3.31, abs=0.01)
    assert sample_run["parameters"] == sum(x.numel() for x in weights) > 4e6


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_fast_model_has_as_many_parameters(sample_run, dtype: str):
    fast = report.analyse_recording(nanos2t.load(fast=True, dtype=dtype), SAMPLE, "sample.wav")
    assert fast["parameters"] == sample_run["parameters"]
    counts = [
        [stage["parameters"] for stage in run["pieces"][0]["stages"]] for run in (fast, sample_run)
    ]
    assert counts[0] == counts[1] and max(counts[0]) > 1e5


def test_the_alternatives_are_the_likeliest_tokens(sample_run, stt):
    [piece] = sample_run["pieces"]
    for token, probability, others in list(
        zip(piece["tokens"], piece["probabilities"], piece["alternatives"])
    )[1:]:
        assert dict(others)[token] == pytest.approx(
            probability, abs=1e-4
        )  # no options change the scores
        assert [p for _, p in others] == sorted((p for _, p in others), reverse=True) and len(
            others
        ) == 6
    for token, text in piece["spelled"].items():
        # The piece that is a space has no text: it is shown by its id.
        with_special = stt.tokenizer.decode([token], skip_special_tokens=False)
        assert text == (with_special or str(token))
        assert (token in piece["special"]) == (stt.tokenizer.decode([token]) != with_special)


def test_the_recording_can_be_heard(sample_run, stt):
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sample_run["audio"])))
    assert rate == sample_run["rate"] == 8000
    np.testing.assert_allclose(waveform, stt.load_audio(SAMPLE), atol=1 / 32768)
    assert (
        base64.b64decode(sample_run["audio"])[36:40] == b"data"
    )  # the page reads samples from byte 44 on


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_attention_is_the_model_s(pre_norm, monkeypatch):
    encoder = replace(ENCODER, pre_norm=pre_norm, num_layers=2)
    model = SpeechEncoderDecoder.from_configs(
        encoder, DECODER, GenerationConfig(decoder_start_token_id=1)
    )
    stt = SpeechToText(spread_(model).eval(), None, RATE, True)
    waveform = sound(0.9)
    seen = []
    attend = wav2vec2.attend

    def spy(queries, keys, *rest):
        seen.append((queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5).softmax(3))
        return attend(queries, keys, *rest)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(wav2vec2, "attend", spy)
        memory, weights = report.encode_with_attention(stt, waveform)
        assert torch.equal(memory, model.encode(stt.prepare([waveform])[0])[0])
    assert weights.shape == (2, 3, 44, 44) and len(seen) == 4
    torch.testing.assert_close(weights, torch.cat(seen[:2]))
    np.testing.assert_allclose(
        unpack(report.quantise_attention(weights, 10**6, True)), weights.detach(), atol=0.005
    )


def test_cross_attention_times_the_words(sample_run, stt):
    [piece] = sample_run["pieces"]
    memory, _ = stt.model.encode(stt.prepare([stt.load_audio(SAMPLE)[: piece["samples"]]])[0])
    read = torch.tensor([stt.model.generation.decoder_start_token_id, *piece["tokens"][:-1]])
    _, weights = alignment.run_decoder(stt.model.decoder, read, memory)
    np.testing.assert_allclose(unpack(piece["cross"]), weights, atol=0.005)
    assert piece["heads"] == list(stt.model.generation.alignment_heads)
    layer, head = np.transpose(piece["heads"])
    mean = weights[layer, head, 1:4].mean(0).double().numpy()
    frame = piece["seconds"] / piece["frames"]
    for (row, peak), word in zip(piece["peaks"], piece["words"], strict=True):
        assert piece["word_of"][row] == piece["words"].index(word)
        onset, _ = alignment.find_onsets(mean[[row - 1]], np.array([peak]), frame)
        assert word["start"] == pytest.approx(onset.item(), abs=1e-4)
    path = np.array(piece["path"])
    assert path[0].tolist() == [1, 0] and path[-1].tolist() == [3, piece["frames"] - 1]
    assert (np.diff(path, axis=0) >= 0).all() and {tuple(peak) for peak in piece["peaks"]} <= set(
        map(tuple, path)
    )


def test_a_translation_has_no_path(stt):
    [piece] = report.analyse_recording(stt, SAMPLE, "a", "de")["pieces"]
    assert piece["text"] == "zweihundertsiebenundvierzig" and piece["path"] == []
    assert (
        len(piece["peaks"]) >= 3 and set(piece["word_of"]) == {-1, 0} and len(piece["words"]) == 1
    )


def test_the_search_adds_up(sample_run):
    [piece] = sample_run["pieces"]
    kept = {(0, 0): (0.0, [])}
    ended = []
    for record in piece["search"]:
        total, path = kept[record["step"] - 1, record["parent"]]
        assert record["sum"] == pytest.approx(total + record["logprob"], abs=1e-4)
        here = record["sum"], [*path, record["token"]]
        if record["status"] == "kept":
            kept[record["step"], record["beam"]] = here
        if record["status"] == "finished":
            assert record["score"] == pytest.approx(
                record["sum"] / record["step"] ** sample_run["length_penalty"], abs=1e-4
            )
            ended.append((record["score"], here[1]))
    assert max(ended)[1] == piece["tokens"] and max(ended)[0] == pytest.approx(
        piece["score"], abs=1e-4
    )
    assert {record["status"] for record in piece["search"]} == {"kept", "dropped", "finished"}


def test_pooling_keeps_what_is_listened_to():
    weights = torch.rand(2, 3, 12, 20).softmax(3)
    pooled = report.pool_weights(weights, 4, 5)
    assert pooled.shape == (2, 3, 4, 5)
    torch.testing.assert_close(
        pooled, weights.unflatten(3, (5, 4)).sum(4).unflatten(2, (4, 3)).mean(3)
    )
    torch.testing.assert_close(report.pool_weights(weights, 99, 99), weights)


@pytest.mark.parametrize("shape, square", [((4, 6, 30, 999), False), ((6, 8, 96, 96), True)])
def test_attention_takes_no_more_than_its_room(shape, square):
    noise = torch.rand(shape) / shape[3]  # nothing deflates less
    packed = report.quantise_attention(noise, 150_000, square)
    assert 100_000 < len(base64.b64decode(packed["data"])) <= 150_000
    assert packed["shape"][:2] == list(shape[:2]) and (packed["shape"][2] == shape[2]) != square


def test_without_a_tokenizer_and_without_languages(tmp_path):
    stt = nanos2t.load(save_tiny(tmp_path, tokenizer=False))
    [piece] = report.analyse_recording(stt, as_wav(sound(0.7)), "a")["pieces"]
    assert piece["words"] == piece["path"] == [] and set(piece["word_of"]) == {-1}
    assert set(piece["spelled"].values()) == set(map(str, piece["spelled"]))


def test_silence_pieces_and_lengths(stt):
    assert report.analyse_recording(stt, as_wav(np.zeros(30000, "f4")), "a")["pieces"] == []
    assert report.analyse_recording(stt, as_wav(np.zeros(3000, "f4")), "a")["pieces"] == []
    clip = stt.load_audio(SAMPLE)
    noise = np.random.default_rng(0).normal(0, 1e-4, 16000).astype("f4")
    actual = report.analyse_recording(stt, as_wav(np.concatenate([clip, noise, clip])), "a")[
        "pieces"
    ]
    assert [piece["text"] for piece in actual] == ["two four seven"] * 2
    assert actual[1]["start"] == pytest.approx(actual[0]["start"] + len(clip) / 8000 + 2, abs=0.5)


def test_a_part_is_shown_if_the_recording_is_long(stt, monkeypatch):
    """Without an end so much of it; the run says which part it is, and its times count from it."""
    clip = stt.load_audio(SAMPLE)
    long = as_wav(np.concatenate([clip, np.zeros(8000, "f4")] * 3))  # 4.3 s each
    whole = report.analyse_recording(stt, long, "a")
    assert (whole["start"], whole["seconds"]) == (0, whole["total_seconds"])
    assert report.describe_part(whole) == "" and len(whole["pieces"]) == 3

    monkeypatch.setattr(report, "DEFAULT_SECONDS", 5.0)
    first = report.analyse_recording(stt, long, "a")
    assert (first["start"], first["seconds"]) == (0, 5)
    assert first["total_seconds"] == whole["total_seconds"]
    total = f"{whole['total_seconds']:.2f}"
    assert report.describe_part(first) == f"0.00 s to 5.00 s of {total} s are shown"

    second = clip.size / 8000 + 1
    part = report.analyse_recording(stt, long, "a", start=second, end=second + 5)
    assert part["pieces"][0]["text"] == "two four seven" and part["seconds"] == 5
    expected = whole["pieces"][0]["words"][0]["start"]
    assert part["pieces"][0]["words"][0]["start"] == pytest.approx(expected, abs=0.02)
    everything = report.analyse_recording(stt, long, "a", end=1e6)
    assert everything["seconds"] == whole["total_seconds"]
    last = report.analyse_recording(stt, long, "a", start=2 * second)
    assert report.describe_part(last).startswith(f"{2 * second:.2f} s to {total} s of")


@pytest.mark.parametrize("start, end", [
    (-1.0, None), (2.0, 2.0), (3.0, 1.0), (float("nan"), None), (0.0, float("inf")),
    (float("inf"), None), (99.0, None),
])  # fmt: skip
def test_no_such_part(stt, start: float, end: float | None):
    with pytest.raises(ValueError, match="^the part .* expected "):
        report.analyse_recording(stt, SAMPLE, "a", start=start, end=end)


# the file


def test_the_page_is_closed(sample_run):
    page = report.render_page([sample_run])
    inline = "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    policy = f"default-src 'none'; {inline}; img-src data:; media-src data:"
    assert page.count(f'content="{policy}"') == 1
    links = re.findall(r"https?://[\w.]+", page)
    assert set(links) == {"http://www.w3.org"}  # a name of SVG, which is not loaded
    assert "innerHTML" not in page and "eval(" not in page and len(page) < 500_000
    assert content(page)["runs"][0]["pieces"][0]["text"] == "two four seven"


def test_hostile_text_stays_in_its_element(sample_run, tmp_path):
    page = report.render_page([hostile(sample_run)])
    assert (
        page.count("</script>") == report.render_page([sample_run]).count("</script>")
        and "onerror" in page
    )
    assert "<img" not in page and page.isascii() == report.TEMPLATE.read_text("utf-8").isascii()
    [back] = content(page)["runs"]
    assert back["title"] == EVIL[0] + EVIL[2] and set(back["pieces"][0]["spelled"].values()) == set(
        EVIL
    )
    (tmp_path / "page.html").write_text(page, "utf-8")
    assert report.read_page(tmp_path / "page.html") == back


def test_numbers_that_json_has_not(sample_run):
    odd = sample_run | {"seconds": float("nan"), "rate": float("-inf"), "length_penalty": 1 / 3}
    [back] = content(report.render_page([odd]))["runs"]
    assert back["seconds"] is None and back["rate"] is None and back["length_penalty"] == 0.333333


@pytest.mark.parametrize("text", [None, "", "{}", report.OPENING + "{]" + report.CLOSING, "other"])
def test_what_is_no_page_is_named(text, tmp_path):
    path = tmp_path / "page.html"
    if text == "other":
        text = report.render_page([]).replace('"version":1', '"version":9')
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        report.read_page(path)
    assert "\n" not in str(caught.value) and "None" not in str(caught.value)
