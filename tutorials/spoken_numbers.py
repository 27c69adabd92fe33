"""The bundled model's task: one to four spoken English digits in, the number in words out, in the language
that is asked for.

Everything is drawn from (seed, step): a run that is resumed sees what it would have seen. Recordings are
named `{digit}_{speaker}_{index}.wav`, as in the Free Spoken Digit Dataset; the index tells the split.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from num2words import num2words
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import audio, pretrained
from nanos2t.apps import transcribe
from nanos2t.apps.train import TrainConfig, average, count_frames, fit, spec_augment
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.generate import GenerationConfig, decode
from nanos2t.model import IGNORED, SpeechEncoderDecoder, shift_right
from nanos2t.tokenizer import Tokenizer
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

RATE = 8000
LANGUAGES = ("verbatim", "en", "de", "fr", "es", "it", "nl", "pt", "da")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Digits = tuple[int, ...]
HELD_OUT = range(5, 10)  # indices of the validation recordings


@lru_cache(None)
def spell(digits: Digits, language: str) -> str:
    """(2, 4, 7), "de" -> "zweihundertsiebenundvierzig", by num2words; "verbatim" -> "two four seven"."""
    if language == "verbatim":
        return " ".join(DIGITS[digit] for digit in digits)
    return num2words(int("".join(map(str, digits))), lang=language) if digits else ""


class Recordings:
    """Spoken digits as float arrays at 8 kHz, `clips[speaker][digit]` a list of them, of equal loudness.

    Names of synthetic voices have a hyphen (espeak-en-us-m1), names of people have none. `held_out` takes the
    recordings that training never sees instead of those it does; people in `without` are passed over.
    """

    def __init__(self, folders: list[Path], held_out: bool, without: set[str] = frozenset()):
        self.clips: dict[str, list[list[np.ndarray]]] = {}
        for path in sorted(path for folder in folders for path in Path(folder).glob("*_*_*.wav")):
            digit, speaker, index = path.stem.split("_")
            if (int(index) in HELD_OUT) == held_out and speaker not in without:
                clip = audio.load(path, RATE)
                clips = self.clips.setdefault(speaker, [[] for _ in DIGITS])
                clips[int(digit)].append(clip / (np.sqrt(np.mean(clip**2)) + 1e-4) * 0.1)
        if not self.clips:
            where = ", ".join(map(str, folders))
            raise ValueError(f"{where}: no recordings named {{digit}}_{{speaker}}_{{index}}.wav")
        self.people = [name for name in self.clips if "-" not in name]
        self.voices = [name for name in self.clips if "-" in name]


def draw_digits(rng: np.random.Generator, most: int) -> Digits:
    """A number of up to `most` digits without leading zeros; now and then any digits at all, or silence."""
    count = int(rng.choice(np.arange(1, most + 1), p=np.arange(1, most + 1) / (most * (most + 1) / 2)))
    if rng.random() < 0.02:
        return ()
    if count > 1 and rng.random() < 0.15:
        return tuple(int(digit) for digit in rng.integers(0, 10, count))
    first = rng.integers(0 if count == 1 else 1, 10)
    return (int(first), *(int(digit) for digit in rng.integers(0, 10, count - 1)))


def stretch(x: np.ndarray, factor: float) -> np.ndarray:
    """Played `factor` times as fast: pitch, formants and speed move together, as between speakers."""
    return np.interp(np.arange(0, len(x) - 1, factor), np.arange(len(x)), x).astype(np.float32)


def fast_size(samples: int) -> int:
    """The next length that an FFT is quick on."""
    return -(-samples // 2048) * 2048


def colour(x: np.ndarray, rng: np.random.Generator, decibels: float) -> np.ndarray:
    """Filter with a smooth random curve of +-`decibels`: another microphone, another mouth."""
    spectrum = np.fft.rfft(x, fast_size(len(x)))
    knots = rng.normal(0.0, decibels / 2, 9)
    curve = np.interp(np.linspace(0, 8, len(spectrum)), np.arange(9), knots)
    return np.fft.irfft(spectrum * 10 ** (curve / 20))[: len(x)]


def band(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep the frequencies from `low` to `high` Hz, with soft edges, as a telephone does."""
    spectrum = np.fft.rfft(x, fast_size(len(x)))
    hertz = np.linspace(0, RATE / 2, len(spectrum))
    return np.fft.irfft(spectrum / (1 + (low / (hertz + 1)) ** 6) / (1 + (hertz / high) ** 12))[: len(x)]


def noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power with a spectrum between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(fast_size(samples)))
    x = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** rng.uniform(0, 1))[:samples]
    return x / (x.std() + 1e-9)


def reverberate(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small room: convolution with decaying noise."""
    samples = int(rng.uniform(0.03, 0.25) * RATE)
    room = rng.standard_normal(samples) * np.exp(-6.9 * np.arange(samples) / samples) * rng.uniform(0.05, 0.3)
    room[0] = 1.0
    size = fast_size(len(x) + samples)
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(room, size), size)[: len(x)]


@dataclass(frozen=True)
class Conditions:
    """How far recordings are changed, from as they are (0) to training's (1)."""

    strength: float = 1.0
    people: float = 0.65  # share of utterances by people
    speed: float = 0.2
    pause: float = 0.12  # mean seconds between digits
    clean: float = 0.25  # share of utterances without noise
    snr: tuple[float, float] = (3.0, 35.0)


def utter(digits: Digits, recordings: Recordings, rng: np.random.Generator, how: Conditions) -> np.ndarray:
    """Recordings of the digits by one speaker, joined with pauses, gains, colour, room and noise: (L,)."""
    human = rng.random() < how.people
    speakers = (recordings.people if human else recordings.voices) or [*recordings.clips]
    speaker = recordings.clips[speakers[rng.integers(len(speakers))]]
    speed = np.exp(rng.uniform(-how.speed, how.speed)) if how.speed else 1.0
    pause = how.pause * rng.choice([0.3, 1.0, 2.5])
    parts = [np.zeros(int(rng.uniform(0.02, 0.5 if digits else 5.0) * RATE))]
    for digit in digits:
        clip = speaker[digit][rng.integers(len(speaker[digit]))]
        gain = 10 ** (rng.normal(0, 2 * how.strength) / 20)
        part = stretch(clip, speed * np.exp(rng.normal(0, 0.03 * how.strength))) if how.speed else clip
        parts += [part * gain, np.zeros(int(min(rng.exponential(pause), 0.8) * RATE))]
    x = np.concatenate([*parts, np.zeros(int(rng.uniform(0.02, 0.5) * RATE))])
    if rng.random() < 0.7 * how.strength:
        x = colour(x, rng, 6.0)
    if rng.random() < 0.25 * how.strength:
        x = reverberate(x, rng)
    if not digits or rng.random() > how.clean:
        x = x + noise(len(x), rng) * 0.1 * 10 ** (-rng.uniform(*how.snr) / 20)
    if rng.random() < 0.25 * how.strength:
        x = band(x, rng.uniform(20, 350), rng.uniform(2200, 4000))
    return audio.normalise(x.astype(np.float32))


def validation_set(recordings: Recordings, count: int, seed: int) -> list[tuple[Digits, np.ndarray]]:
    """`count` numbers, as many of each length 1 to 4, by people, with moderate noise (SNR 15 to 30 dB)."""
    how = Conditions(strength=0.0, people=1.0, speed=0.0, snr=(15.0, 30.0))
    items = []
    for i in range(count):
        rng = np.random.default_rng((seed, i, 1))
        size = i % 4 + 1
        digits = tuple(int(d) for d in [rng.integers(size > 1, 10), *rng.integers(0, 10, size - 1)])
        items.append((digits, utter(digits, recordings, rng, how)))
    return items


@dataclass
class Batch:
    """Waveforms (B, L) and mask; K targets of each: decoder input and labels (B * K, T); what is said."""

    input_values: Tensor
    attention_mask: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    digits: list[Digits]


def training_batches(
    step: int, seed: int, recordings: Recordings, tokenizer: Tokenizer, config: GenerationConfig,
    utterances: int = 32, targets: int = 4, parts: int = 4,
) -> list[Batch]:  # fmt: skip
    """The utterances of a step, each with `targets` languages drawn for it, in parts of similar length."""
    rng, most = np.random.default_rng((seed, step)), curriculum(step)
    items = []
    for _ in range(utterances):
        digits = draw_digits(rng, most)
        waveform = utter(digits, recordings, rng, Conditions())
        number = len(digits) < 2 or digits[0] != 0
        others = rng.permutation(LANGUAGES[1:])[: targets - 1] if number else ["verbatim"] * (targets - 1)
        names = ("verbatim", *others)
        labels = [[config.lang_to_id[name], *tokenizer.encode(spell(digits, name))] for name in names]
        items.append((waveform, labels, digits))
    items.sort(key=lambda item: len(item[0]))
    size = utterances // parts
    return [collate(items[i : i + size], config) for i in range(0, utterances, size)]


def collate(items: list[tuple], config: GenerationConfig) -> Batch:
    waveforms, rows, digits = zip(*items)
    rows = [torch.tensor(row) for labels in rows for row in labels]
    labels = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    decoder_input_ids = shift_right(labels, config.decoder_start_token_id, config.pad_token_id)
    labels[:, 0] = IGNORED  # the language: it is given, nothing in the audio tells it
    return Batch(*audio.pad(list(waveforms)), decoder_input_ids, labels, list(digits))


def curriculum(step: int) -> int:
    """How many digits an utterance may have at a step."""
    return 1 if step < 250 else 2 if step < 600 else 3 if step < 1200 else 4


def losses(
    step: int, model: SpeechEncoderDecoder, ctc: nn.Linear, batches: list[Batch], seed: int
) -> Iterator[Tensor]:
    """Parts whose sum is the loss of the step: mean cross-entropy, and 0.3 times CTC of the digits.

    CTC (Graves et al. 2006) teaches the encoder where the words are (with attention: Watanabe et al. 2017).
    """
    rng = np.random.default_rng((seed, step, 2))
    tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    utterances = sum(len(batch.digits) for batch in batches)
    for batch in batches:
        frames = count_frames(model.encoder, batch.attention_mask.sum(1))
        masked = spec_augment(frames, int(frames.max()), model.encoder.config.training, rng)
        out = model(batch.input_values, batch.attention_mask, batch.labels, batch.decoder_input_ids, masked)
        log_probs = ctc(out.memory).float().log_softmax(2).transpose(0, 1)
        said = torch.tensor([digit for digits in batch.digits for digit in digits])
        sizes = torch.tensor([len(digits) for digits in batch.digits])
        aligned = F.ctc_loss(log_probs, said, out.frames, sizes, blank=len(DIGITS), zero_infinity=True)
        share = int((batch.labels != IGNORED).sum()) / tokens
        yield out.loss * share + 0.3 * aligned * len(batch.digits) / utterances


def build_tokenizer():
    """A BPE vocabulary of 320 pieces, learned from every number to 9999 in every language."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"<{language}>" for language in LANGUAGES)]
    numbers = (tuple(map(int, str(number))) for number in range(10000))
    texts = (spell(number, language) for number in numbers for language in LANGUAGES)
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return backend


def build_model(backend) -> SpeechEncoderDecoder:
    """3.9 M parameters: wav2vec2-large in small, 40 ms a frame at 8 kHz, and two layers of BERT."""
    encoder = EncoderConfig.large(
        hidden_size=192, num_layers=5, num_heads=6, intermediate_size=768, activation="relu",
        conv_channels=(32, 64, 96, 128, 192, 192, 192), conv_activation="relu", position_kernel=32,
        training=EncoderTraining(
            hidden_dropout=0.1, attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0,
            mask_time_prob=0.1, mask_time_length=3, mask_time_min_masks=0,
        ),
    )  # fmt: skip
    decoder = DecoderConfig.bert(
        backend.get_vocab_size(), hidden_size=192, num_layers=2, num_heads=6, intermediate_size=768,
        activation="relu", max_positions=64, training=DecoderTraining(0.1, 0.0, 0.0),
    )  # fmt: skip
    ids = {name: backend.token_to_id(f"<{name}>") for name in LANGUAGES}
    generation = GenerationConfig(
        decoder_start_token_id=1, pad_token_id=0, eos_token_id=2, bos_token_id=1, max_length=32,
        forced_bos_token_id=ids["verbatim"], lang_to_id=ids,
    )  # fmt: skip
    return SpeechEncoderDecoder.from_configs(encoder, decoder, generation)


@torch.no_grad()
def write(stt: transcribe.SpeechToText, items: list[tuple[Digits, np.ndarray]]) -> dict[str, list[str]]:
    """The texts of the utterances in each language; greedy."""
    texts = {language: [] for language in LANGUAGES}
    for i in range(0, len(items), 50):
        memory, frames = stt.model.encode(*stt.prepare([waveform for _, waveform in items[i : i + 50]]))
        for language in LANGUAGES:
            rows = decode(stt.model, memory, frames, stt.options(language, {"num_beams": 1})).sequences
            texts[language] += [stt.text(row) for row in rows.tolist()]
    return texts


def shares(texts: dict[str, list[str]], expected: dict[str, list[str]]) -> dict[str, float]:
    """The share of texts that are exactly as expected, over all languages ("exact") and in each."""
    found = {name: float(np.mean([a == b for a, b in zip(texts[name], expected[name])])) for name in texts}
    return {"exact": round(float(np.mean([*found.values()])), 4)} | {k: round(v, 4) for k, v in found.items()}


def score(stt: transcribe.SpeechToText, items: list[tuple[Digits, np.ndarray]]) -> dict[str, float]:
    """The share of utterances written exactly right."""
    expected = {language: [spell(digits, language) for digits, _ in items] for language in LANGUAGES}
    return shares(write(stt, items), expected)


def transcriber(output: Path, seed: int) -> transcribe.SpeechToText:
    """The model as it starts, and its tokenizer, which is kept in output/tokenizer.json."""
    from tokenizers import Tokenizer as Backend

    output.mkdir(parents=True, exist_ok=True)
    file = output / "tokenizer.json"
    if not file.exists():
        build_tokenizer().save(str(file))
    torch.manual_seed(seed)
    backend = Backend.from_file(str(file))
    return transcribe.SpeechToText(build_model(backend), Tokenizer(backend), RATE, True)


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    stt = transcriber(options.output, options.seed)
    recordings = Recordings(options.data, held_out=False, without={options.leave_out})
    others = {name for name in Recordings(options.data, held_out=True).clips if name != options.leave_out}
    held_out = Recordings(options.data, held_out=True, without=others if options.leave_out else set())
    items = validation_set(held_out, 96, seed=7)
    module = nn.ModuleDict({"model": stt.model, "ctc": nn.Linear(192, len(DIGITS) + 1)})
    config = TrainConfig(
        steps=options.steps, seed=options.seed, learning_rate=1e-3, schedule="constant", warmup_steps=300,
        decay_steps=1500, bfloat16=True, save_every=100, validate_every=250, average=6,
    )  # fmt: skip

    def losses_of(step: int) -> Iterator[Tensor]:
        batches = training_batches(step, config.seed, recordings, stt.tokenizer, stt.model.generation)
        return losses(step, stt.model, module["ctc"], batches, config.seed)

    fit(module, losses_of, config, options.output, lambda: score(stt, items))
    module.load_state_dict(average(options.output, config))
    export(stt, options.output)


def export(stt: transcribe.SpeechToText, output: Path) -> None:
    """The trained model as a folder in transformers' layout, its weights rounded to float16 to be small."""
    pretrained.save_pretrained(copy.deepcopy(stt.model).half(), output)
    config = json.loads((output / "config.json").read_text())
    config["dtype"] = "float32"
    features = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_side": "right",
        "sampling_rate": RATE, "do_normalize": True, "return_attention_mask": True, "padding_value": 0.0,
        "chunk_length": 5, "chunk_sounds": 4,  # what training saw at a time
    }  # fmt: skip
    special = {
        "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    for name, content in ("config", config), ("preprocessor_config", features), ("tokenizer_config", special):
        (output / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def evaluate(options: argparse.Namespace) -> None:
    """Numbers of 1 to 4 digits by people, from recordings that training never saw; print a line of JSON."""
    stt = transcribe.load(options.model)
    held_out = Recordings(options.data, held_out=True)
    if options.speaker:
        others = set(held_out.clips) - {options.speaker}
        held_out, rest = (Recordings(options.data, half, without=others) for half in (True, False))
        for digit, clips in enumerate(rest.clips[options.speaker]):
            held_out.clips[options.speaker][digit] += clips
    items = validation_set(held_out, options.count, options.seed)
    found = {"count": options.count, "speakers": held_out.people}
    if options.compare:
        other = transcribe.load(options.model, dtype=options.compare)
        found |= {"the same in": options.compare, **shares(write(other, items), write(stt, items))}
    else:
        found |= score(stt, items)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in ("train", "evaluate")}
    for command in parsers.values():
        command.add_argument("--data", nargs="+", type=Path, required=True, help="folders of recordings")
    parsers["train"].add_argument("--output", type=Path, required=True, help="resumes what is there")
    parsers["train"].add_argument("--leave-out", default="", metavar="SPEAKER")
    parsers["train"].add_argument("--steps", type=int, default=6500)
    parsers["train"].add_argument("--seed", type=int, default=1)
    parsers["train"].add_argument("--threads", type=int, default=2)
    parsers["evaluate"].add_argument("--model", help="folder; default: the bundled model")
    parsers["evaluate"].add_argument("--count", type=int, default=1000)
    parsers["evaluate"].add_argument("--seed", type=int, default=11)
    parsers["evaluate"].add_argument(
        "--compare", metavar="DTYPE", help="print how many texts stay in it: int8"
    )
    parsers["evaluate"].add_argument("--speaker", help="only this one, who was left out: all recordings")
    options = parser.parse_args()
    {"train": train, "evaluate": evaluate}[options.command](options)


if __name__ == "__main__":
    main()
