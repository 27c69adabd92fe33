"""The bundled model's task: one to four spoken English digits in, the number in words out, in the language
that is asked for.

    recordings -> prepare: utterances and manifests -> nanos2t train -> pack: the bundled model -> evaluate

Recordings are named `{digit}_{speaker}_{index}.wav`, as in the Free Spoken Digit Dataset; the index tells the
split. train_spoken_numbers.md has the commands.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

import nanos2t
from nanos2t import audio
from nanos2t.generate import decode_memory
from nanos2t.transcription import transcriber as transcribe

RATE = 8000
LANGUAGES = ("verbatim", "en", "de", "fr", "es", "it", "nl", "pt", "da")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Digits = tuple[int, ...]
PARTS = ("train", "dev", "test")


@lru_cache(None)
def spell(digits: Digits, language: str) -> str:
    """(2, 4, 7), "de" -> "zweihundertsiebenundvierzig", by num2words; "verbatim" -> "two four seven"."""
    if language == "verbatim":
        return " ".join(DIGITS[digit] for digit in digits)
    from num2words import num2words

    return num2words(int("".join(map(str, digits))), lang=language) if digits else ""


def part_of(speaker: str, index: int) -> str:
    """The part that a recording is in: of people 0 to 4 are the official test; then every ninth is for
    validation, for those that follow each other in the dataset were said one after the other."""
    if index < 5 and "-" not in speaker:
        return "test"
    return "train" if index % 9 or not index else "dev"


def named(path: Path) -> tuple[str, str, str]:
    """The digit, speaker and index in the name of a recording."""
    if not (found := re.fullmatch("([0-9])_([^_]+)_([0-9]+)", path.stem)):
        raise ValueError(f"{path}: expected {{digit}}_{{speaker}}_{{index}}.wav")
    return found.groups()


class Recordings:
    """Spoken digits as float arrays at 8 kHz, `clips[speaker][digit]` a list of them, of equal loudness.

    Names of synthetic voices have a hyphen (espeak-en-us-m1), names of people have none. Read are those of
    `parts` by the speakers that `heard` says yes to.
    """

    def __init__(
        self, folders: list[Path], *parts: str, heard: Callable[[str], bool] = lambda speaker: True
    ):
        self.clips: dict[str, list[list[np.ndarray]]] = {}
        for path in sorted(path for folder in folders for path in Path(folder).glob("*_*_*.wav")):
            digit, speaker, index = named(path)
            if part_of(speaker, int(index)) in parts and heard(speaker):
                clip = audio.load_audio(path, RATE)
                clips = self.clips.setdefault(speaker, [[] for _ in DIGITS])
                clips[int(digit)].append(clip / (np.sqrt(np.mean(clip**2)) + 1e-4) * 0.1)
        where, what = ", ".join(map(str, folders)), " or ".join(parts)
        if not self.clips:
            raise ValueError(
                f"{where}: no {what} recordings, {{digit}}_{{speaker}}_{{index}}.wav, of who is asked for"
            )
        for speaker, said in self.clips.items():
            if not all(said):
                raise ValueError(
                    f"{where}: {speaker} says no {DIGITS[said.index([])]} in a {what} recording"
                )
        self.people = [name for name in self.clips if "-" not in name]
        self.voices = [name for name in self.clips if "-" in name]


def draw_digits(rng: np.random.Generator, most: int) -> Digits:
    """A number of up to `most` digits without leading zeros; now and then any digits at all, or silence."""
    count = int(
        rng.choice(np.arange(1, most + 1), p=np.arange(1, most + 1) / (most * (most + 1) / 2))
    )
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
    return np.fft.irfft(spectrum / (1 + (low / (hertz + 1)) ** 6) / (1 + (hertz / high) ** 12))[
        : len(x)
    ]


def noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power with a spectrum between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(fast_size(samples)))
    x = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** rng.uniform(0, 1))[:samples]
    return x / (x.std() + 1e-9)


def reverberate(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small room: convolution with decaying noise."""
    samples = int(rng.uniform(0.03, 0.25) * RATE)
    room = (
        rng.standard_normal(samples)
        * np.exp(-6.9 * np.arange(samples) / samples)
        * rng.uniform(0.05, 0.3)
    )
    room[0] = 1.0
    size = fast_size(len(x) + samples)
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(room, size), size)[: len(x)]


def cut_badly(x: np.ndarray, next_take: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A recording that was cut in the wrong place, as some are: a part of its beginning or of its end is
    missing, or it runs from the middle of one take into the next."""
    lost, kind = int(len(x) * rng.uniform(0.05, 0.45)), rng.random()
    if kind < 0.25:
        return x[: len(x) - lost // 2]
    return x[lost:] if kind < 0.7 else np.concatenate([x[lost:], next_take[:lost]])


@dataclass(frozen=True)
class Conditions:
    """How far recordings are changed, from as they are (0) to training's (1)."""

    strength: float = 1.0
    people: float = 0.65  # share of utterances by people
    speed: float = 0.2
    pause: float = 0.12  # mean seconds between digits
    clean: float = 0.25  # share of utterances without noise
    snr: tuple[float, float] = (3.0, 35.0)
    cut: float = 0.0  # share of recordings cut in the wrong place
    tight: float = 0.0  # share of utterances that begin, and that end, with the word itself


TRAINING = Conditions(
    strength=0.6, people=0.85, speed=0.08, clean=1.0, cut=0.04
)  # noise: nanos2t train


def conditions(text: str) -> Conditions:
    """TRAINING, but with the numbers in an object of JSON."""
    given = json.loads(text)
    known, numbers = {field.name for field in fields(Conditions)}, {float: 1, tuple: 2}
    if not isinstance(given, dict) or not given.keys() <= known:
        raise argparse.ArgumentTypeError(
            f"expected an object with some of {sorted(known)}, found {text}"
        )
    for name, value in given.items():
        many = np.atleast_1d(value)
        if many.dtype.kind not in "fi" or many.shape != (numbers[type(getattr(TRAINING, name))],):
            raise argparse.ArgumentTypeError(
                f"{name} is {value!r}, expected {getattr(TRAINING, name)} or so"
            )
    return replace(TRAINING, **given)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return int(text)


def utter(
    digits: Digits, recordings: Recordings, rng: np.random.Generator, how: Conditions
) -> np.ndarray:
    """Recordings of the digits by one speaker, joined with pauses, gains, colour, room and noise: (L,)."""
    human = rng.random() < how.people
    speakers = (recordings.people if human else recordings.voices) or [*recordings.clips]
    speaker = recordings.clips[speakers[rng.integers(len(speakers))]]
    speed = np.exp(rng.uniform(-how.speed, how.speed)) if how.speed else 1.0
    pause = how.pause * rng.choice([0.3, 1.0, 2.5])
    tight = rng.random(2) < how.tight if how.tight and digits else np.zeros(2, bool)
    parts = [np.zeros(int(rng.uniform(0.02, 0.5 if digits else 5.0) * RATE))]
    for digit in digits:
        clip = speaker[digit][rng.integers(len(speaker[digit]))]
        if how.cut and rng.random() < how.cut:
            clip = cut_badly(clip, speaker[digit][rng.integers(len(speaker[digit]))], rng)
        gain = 10 ** (rng.normal(0, 2 * how.strength) / 20)
        part = (
            stretch(clip, speed * np.exp(rng.normal(0, 0.03 * how.strength))) if how.speed else clip
        )
        parts += [part * gain, np.zeros(int(min(rng.exponential(pause), 0.8) * RATE))]
    parts.append(np.zeros(int(rng.uniform(0.02, 0.5) * RATE)))
    x = np.concatenate(parts[int(tight[0]) : len(parts) - 2 * int(tight[1])])
    if rng.random() < 0.7 * how.strength:
        x = colour(x, rng, 6.0)
    if rng.random() < 0.25 * how.strength:
        x = reverberate(x, rng)
    if not digits or rng.random() > how.clean:
        x = x + noise(len(x), rng) * 0.1 * 10 ** (-rng.uniform(*how.snr) / 20)
    if rng.random() < 0.25 * how.strength:
        x = band(x, rng.uniform(20, 350), rng.uniform(2800, 4000))
    return audio.normalise(x.astype(np.float32))


def validation_set(
    recordings: Recordings, count: int, seed: int, most: int = 4
) -> list[tuple[Digits, np.ndarray]]:
    """`count` numbers, as many of each length 1 to `most`, by people; moderate noise (SNR 15 to 30 dB)."""
    how = Conditions(strength=0.0, people=1.0, speed=0.0, snr=(15.0, 30.0))
    items = []
    for i in range(count):
        rng = np.random.default_rng((seed, i, 1))
        size = i % most + 1
        digits = tuple(int(d) for d in [rng.integers(size > 1, 10), *rng.integers(0, 10, size - 1)])
        items.append((digits, utter(digits, recordings, rng, how)))
    return items


@torch.no_grad()
def write(
    stt: transcribe.SpeechToText, items: list[tuple[Digits, np.ndarray]]
) -> dict[str, list[str]]:
    """The texts of the utterances in each language that the model writes; greedy."""
    texts = {language: [] for language in LANGUAGES if language in stt.languages}
    for i in range(0, len(items), 50):
        memory, frames = stt.model.encode(
            *stt.prepare([waveform for _, waveform in items[i : i + 50]])
        )
        for language in texts:
            rows = decode_memory(
                stt.model, memory, frames, stt.generation_options(language, {"num_beams": 1})
            ).sequences
            texts[language] += [stt.decode_tokens(row) for row in rows.tolist()]
    return texts


def shares(texts: dict[str, list[str]], expected: dict[str, list[str]]) -> dict[str, float]:
    """The share of texts that are exactly as expected, over all languages ("exact") and in each."""
    found = {
        name: float(np.mean([a == b for a, b in zip(texts[name], expected[name])]))
        for name in texts
    }
    return {"exact": round(float(np.mean([*found.values()])), 4)} | {
        k: round(v, 4) for k, v in found.items()
    }


def score(stt: transcribe.SpeechToText, items: list[tuple[Digits, np.ndarray]]) -> dict[str, float]:
    """The share of utterances written exactly right."""
    expected = {
        language: [spell(digits, language) for digits, _ in items] for language in LANGUAGES
    }
    return shares(write(stt, items), expected)


def texts_of(digits: Digits) -> dict[str, str]:
    """What is to be written in each language: of digits that are no number ("zero four") verbatim alone."""
    number = len(digits) < 2 or digits[0] != 0
    return {name: spell(digits, name) for name in (LANGUAGES if number else LANGUAGES[:1])}


def manifest(items: Iterable[tuple[Digits, np.ndarray]], name: str, output: Path) -> None:
    """Write the utterances to output/name/, and a line for each and each of its languages to name.jsonl."""
    (output / name).mkdir(parents=True, exist_ok=True)
    with open(output / f"{name}.jsonl", "w") as file:
        for i, (digits, waveform) in enumerate(items):
            path = f"{name}/{i:05d}.wav"
            soundfile.write(
                output / path, waveform * (0.9 / np.abs(waveform).max()), RATE, "PCM_16"
            )
            for language, text in texts_of(digits).items():
                file.write(json.dumps({"audio": path, "text": text, "language": language}) + "\n")


def prepare(options: argparse.Namespace) -> None:
    """Write what `nanos2t train` reads: utterances drawn from (seed, number), and a validation set."""
    recordings = Recordings(options.data, "train", heard=lambda name: name != options.leave_out)
    held_out = Recordings(options.data, "dev", heard=lambda name: options.leave_out in ("", name))

    def draw(number: int) -> tuple[Digits, np.ndarray]:
        rng = np.random.default_rng((options.seed, number))
        digits = draw_digits(rng, options.most)
        return digits, utter(digits, recordings, rng, options.conditions)

    manifest(
        tqdm(map(draw, range(options.count)), total=options.count, disable=None),
        "train",
        options.output,
    )
    manifest(validation_set(held_out, 100, 7, options.most), "dev", options.output)


def pack(options: argparse.Namespace) -> None:
    """Copy a trained model with its weights rounded to float16, to be small."""
    stt = nanos2t.load(options.model)
    stt.model.half()
    stt.save_pretrained(options.output)
    path = options.output / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def evaluate(options: argparse.Namespace) -> None:
    """Numbers of 1 to 4 digits by people, joined from recordings of `--part`; print a line of JSON."""
    stt = nanos2t.load(options.model)
    recordings = Recordings(
        options.data, *options.part, heard=lambda name: name in (options.speaker or [name])
    )
    items = validation_set(recordings, options.count, options.seed, options.most)
    found = {"count": options.count, "speakers": recordings.people}
    if options.compare:
        other = nanos2t.load(options.model, dtype=options.compare)
        found |= {"the same in": options.compare, **shares(write(other, items), write(stt, items))}
    else:
        found |= score(stt, items)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    jobs = {"prepare": prepare, "pack": pack, "evaluate": evaluate}
    parsers = {name: commands.add_parser(name, help=job.__doc__) for name, job in jobs.items()}
    for name in "prepare", "evaluate":
        parsers[name].add_argument(
            "--data", nargs="+", type=Path, required=True, help="folders of recordings"
        )
        parsers[name].add_argument(
            "--most", type=int, default=4, choices=range(1, 5), help="digits of a number"
        )
    for name in "prepare", "pack":
        parsers[name].add_argument("--output", type=Path, required=True)
    parsers["prepare"].add_argument(
        "--count", type=positive, default=24000, help="utterances to train on"
    )
    parsers["prepare"].add_argument("--leave-out", default="", metavar="SPEAKER")
    parsers["prepare"].add_argument(
        "--conditions",
        type=conditions,
        default=TRAINING,
        metavar="JSON",
        help='other than TRAINING: {"cut": 0}',
    )
    parsers["prepare"].add_argument("--seed", type=int, default=1)
    parsers["pack"].add_argument("--model", required=True, help="folder")
    parsers["evaluate"].add_argument("--model", help="folder; default: the bundled model")
    parsers["evaluate"].add_argument("--count", type=positive, default=1000)
    parsers["evaluate"].add_argument("--seed", type=int, default=11)
    parsers["evaluate"].add_argument(
        "--compare", metavar="DTYPE", help="print how many texts stay in it: int8"
    )
    parsers["evaluate"].add_argument(
        "--part", nargs="+", default=["dev"], choices=PARTS, help="default: dev, never trained on"
    )
    parsers["evaluate"].add_argument("--speaker", nargs="+", help="only these; default: all")
    options = parser.parse_args()
    try:
        jobs[options.command](options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except ModuleNotFoundError as error:
        parser.exit(1, f"{parser.prog}: needs {error.name}: pip install {error.name}\n")


if __name__ == "__main__":
    main()
