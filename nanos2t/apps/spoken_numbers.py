"""The bundled model's task: one to four spoken English digits in, the number in words out, in the language asked for.

Everything is drawn from (seed, step), so a batch can be made again: a run that is resumed sees what it would have seen.
Recordings are `{digit}_{speaker}_{index}.wav`, as in the Free Spoken Digit Dataset; the index tells the split.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from num2words import num2words
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import audio
from nanos2t.apps.train import TrainConfig, fit, spec_augment
from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.generate import GenerationConfig, generate
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

RATE = 8000
LANGUAGES = ("verbatim", "en", "de", "fr", "es", "it", "nl", "pt", "da")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = range(5, 10)  # indices of the validation recordings


@lru_cache(None)
def spell(digits: tuple[int, ...], language: str) -> str:
    """(2, 4, 7), "de" -> "zweihundertsiebenundvierzig", as num2words prints it; "verbatim" -> "two four seven"."""
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
            raise ValueError(f"no recordings {{digit}}_{{speaker}}_{{index}}.wav in {', '.join(map(str, folders))}")
        self.people = [name for name in self.clips if "-" not in name]
        self.voices = [name for name in self.clips if "-" in name]


def draw_digits(rng: np.random.Generator, most: int) -> tuple[int, ...]:
    """A number of up to `most` digits without leading zeros; now and then any digits at all, or silence."""
    count = int(rng.choice(np.arange(1, most + 1), p=np.arange(1, most + 1) / (most * (most + 1) / 2)))
    if rng.random() < 0.02:
        return ()
    if count > 1 and rng.random() < 0.15:
        return tuple(int(digit) for digit in rng.integers(0, 10, count))
    first = rng.integers(0 if count == 1 else 1, 10)
    return (int(first), *(int(digit) for digit in rng.integers(0, 10, count - 1)))


def is_number(digits: tuple[int, ...]) -> bool:
    return len(digits) < 2 or digits[0] != 0


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


def utter(digits: tuple[int, ...], recordings: Recordings, rng: np.random.Generator, how: Conditions) -> np.ndarray:
    """Join recordings of the digits by one speaker into an utterance, with pauses, gains, colour, room and noise."""
    human = rng.random() < how.people
    speakers = (recordings.people if human else recordings.voices) or [*recordings.clips]
    speaker = recordings.clips[speakers[rng.integers(len(speakers))]]
    speed = np.exp(rng.uniform(-how.speed, how.speed)) if how.speed else 1.0
    pause = how.pause * rng.choice([0.3, 1.0, 2.5])
    parts = [np.zeros(int(rng.uniform(0.02, 0.5) * RATE))]
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


def validation_set(recordings: Recordings, count: int, seed: int) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """`count` numbers, as many of each length 1 to 4, by real speakers, with moderate noise (SNR 15 to 30 dB)."""
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
    """Waveforms (B, L) and mask; K targets an utterance: decoder input and labels (B * K, T); spoken digits."""

    input_values: Tensor
    attention_mask: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    digits: list[tuple[int, ...]]


def training_batch(step: int, seed: int, recordings: Recordings, tokenizer: Tokenizer, utterances: int = 32,
                   targets: int = 4, most: int = 4) -> Batch:  # fmt: skip
    """The batch of a step: `utterances` of up to `most` digits, each with `targets` languages drawn for it."""
    rng = np.random.default_rng((seed, step))
    waveforms, digits, labels = [], [], []
    for _ in range(utterances):
        spoken = draw_digits(rng, most)
        digits.append(spoken)
        waveforms.append(utter(spoken, recordings, rng, Conditions()))
        others = rng.permutation(LANGUAGES[1:])[: targets - 1] if is_number(spoken) else ["verbatim"] * (targets - 1)
        labels += [tokenizer.encode(spell(spoken, language), language) for language in ("verbatim", *others)]
    ids = torch.full((len(labels), max(map(len, labels))), -100)
    for row, label in zip(ids, labels):
        row[: len(label)] = torch.tensor(label)
    start = torch.full_like(ids[:, :1], tokenizer.start_id)
    decoder_input_ids = torch.cat([start, ids[:, :-1]], 1).clamp(min=tokenizer.pad_id)
    ids[:, 0] = -100  # nothing in the audio tells the language: it is given
    return Batch(*audio.pad(waveforms), decoder_input_ids, ids, digits)


def curriculum(step: int) -> int:
    """How many digits an utterance may have at a step."""
    return 1 if step < 250 else 2 if step < 600 else 3 if step < 1200 else 4


def build_tokenizer():
    """A BPE vocabulary of 320 pieces, learned from every number to 9999 in every language."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"<{language}>" for language in LANGUAGES)]
    numbers = (tuple(map(int, str(n))) for n in range(10000))
    texts = (spell(number, language) for number in numbers for language in LANGUAGES)
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    )
    return backend


def build_model() -> SpeechEncoderDecoder:
    encoder = EncoderConfig.large(
        hidden_size=192,
        num_layers=5,
        num_heads=6,
        intermediate_size=768,
        activation="relu",
        conv_activation="relu",
        conv_channels=(32, 64, 96, 128, 192, 192, 192),
        position_kernel=32,
        training=EncoderTraining(0.0, 0.1, 0.0, 0.0, layerdrop=0.0, mask_time_prob=0.1, mask_time_length=3, mask_time_min_masks=0),
    )
    decoder = DecoderConfig.bert(
        320,
        hidden_size=192,
        num_layers=2,
        num_heads=6,
        intermediate_size=768,
        activation="relu",
        max_positions=64,
        training=DecoderTraining(0.1, 0.0, 0.0),
    )
    generation = GenerationConfig(decoder_start_token_id=1, pad_token_id=0, eos_token_id=2, max_length=32)
    return SpeechEncoderDecoder.from_configs(encoder, decoder, generation)


def main() -> None:
    import argparse, json, sys

    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--leave-out", default="")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "tokenizer.json"
    if not file.exists():
        build_tokenizer().save(str(file))
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(file))
    tokenizer = Tokenizer(backend, {l: backend.token_to_id(f"<{l}>") for l in LANGUAGES}, 1, 2, 0)
    train = Recordings(options.data, False, without={options.leave_out})
    held = Recordings(options.data, True)
    if options.leave_out:
        held = Recordings(options.data, True, without=set(held.clips) - {options.leave_out})
    valid = validation_set(held, 96, 7)
    print({k: sum(map(len, v)) for k, v in train.clips.items()}, file=sys.stderr)
    torch.manual_seed(options.seed)
    model = build_model()
    module = nn.ModuleDict({"model": model, "ctc": nn.Linear(192, 11)})
    config = TrainConfig(steps=options.steps, seed=options.seed)

    def loss_of(step: int) -> Tensor:
        batch = training_batch(step, options.seed, train, tokenizer, most=curriculum(step))
        samples = batch.attention_mask.sum(1)
        frames = samples.clamp(min=400)
        for kernel, stride in zip(model.encoder.config.conv_kernels, model.encoder.config.conv_strides):
            frames = conv_frames(frames, kernel, stride)
        rng = np.random.default_rng((options.seed, step, 2))
        masked = spec_augment(frames, int(frames.max()), model.encoder.config.training, rng)
        out = model(batch.input_values, batch.attention_mask, batch.labels, batch.decoder_input_ids, masked)
        log_probs = module["ctc"](out.memory).float().log_softmax(2).transpose(0, 1)
        targets = torch.tensor([d for digits in batch.digits for d in digits])
        sizes = torch.tensor([len(digits) for digits in batch.digits])
        ctc = F.ctc_loss(log_probs, targets, frames, sizes, blank=10, zero_infinity=True)
        return out.loss + 0.3 * ctc

    def validate() -> dict:
        right = dict.fromkeys(LANGUAGES, 0)
        for i in range(0, len(valid), 32):
            part = valid[i : i + 32]
            values, mask = audio.pad([x for _, x in part])
            forced = torch.tensor([tokenizer.languages[l] for l in LANGUAGES]).repeat(len(part))
            tokens = generate(model, values, mask, forced=forced, max_length=32)
            texts = tokenizer.batch_decode(tokens.tolist())
            for j, (digits, _) in enumerate(part):
                for k, language in enumerate(LANGUAGES):
                    right[language] += texts[j * len(LANGUAGES) + k] == spell(digits, language)
        share = {l: round(c / len(valid), 3) for l, c in right.items()}
        return {"exact": round(sum(share.values()) / len(share), 4), **share}

    fit(module, loss_of, config, options.output, validate)


if __name__ == "__main__":
    main()
