"""More voices for the spoken-numbers task: the ten English digit words from every speech engine that is here.

Debian's espeak-ng, flite, festival (festvox-kallpc16k, festvox-kdlpc16k, festvox-us-slt-hts) and the package
hibari-tts are used where they are found; what is missing is said. Files: {digit}_{voice}_{index}.wav, 8 kHz.
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

RATE = 8000
WORDS = "zero one two three four five six seven eight nine".split()
DIALECTS = (
    "en-us en-gb en-gb-scotland en-gb-x-rp en-029 en-gb-x-gbclan en-gb-x-gbcwmd en-us-nyc".split()
)
VARIANTS = (
    "m1 f1 m2 f2 m3 f3 m4 f4 m5 f5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Jacky Lee "
    "Mario Michael Mike Nguyen antonio aunty belinda benjamin david ed edward grandma grandpa gustave linda "
    "marcelo max pablo quincy robert steph travis"
).split()
DIPHONE = (
    "(Parameter.set 'Duration_Stretch {stretch:.3f}) (set! int_lr_params '((target_f0_mean {pitch:.1f})"
    " (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34)))"
)
HTS = '(set! hts_engine_params (append hts_engine_params (list (list "-r" {stretch:.3f}))))'  # here a speed
FESTIVAL = {"kal_diphone": DIPHONE, "ked_diphone": DIPHONE, "cmu_us_slt_arctic_hts": HTS}
# The ten words in hibari's phonemes.
HIBARI = "zˈɪɹO wˈʌn tˈu θɹˈi fˈɔɹ fˈIv sˈɪks sˈɛvən ˈAt nˈIn".split()
Utterance = tuple[int, str, int, np.ndarray, int]  # digit, voice, index, samples, sample rate


def takes(voice: str, count: int, seed: int) -> Iterator[tuple[random.Random, int, int]]:
    """Yield (random source, digit, index) for each take of a voice; the source is of seed and voice."""
    rng = random.Random(f"{seed}/{voice}")
    return ((rng, digit, index) for digit in range(10) for index in range(count))


def command(*arguments: object) -> str:
    """Run a program and return what it printed."""
    return subprocess.run(
        [str(item) for item in arguments], check=True, capture_output=True, text=True
    ).stdout


def espeak(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with espeak-ng: one speaker per voice variant, the dialects taken in turn."""
    for number, variant in enumerate(VARIANTS):
        dialect = DIALECTS[number % len(DIALECTS)]
        for rng, digit, index in takes(variant, 6, seed):
            command(
                "espeak-ng",
                "-v",
                f"{dialect}+{variant}",
                "-p",
                rng.randint(30, 70),
                "-s",
                rng.randint(110, 220),
                "-w",
                wav,
                WORDS[digit],
            )
            yield digit, f"espeak-{dialect}-{variant.lower()}", index, *soundfile.read(wav)


def flite(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with flite's built-in voices, at varied duration and, for the voices that obey it, pitch."""
    for name in sorted(
        {"awb", "kal", "kal16", "rms", "slt"} & set(command("flite", "-lv").split())
    ):
        for rng, digit, index in takes(f"flite-{name}", 12, seed):
            command(
                "flite",
                "-voice",
                name,
                "--setf",
                f"duration_stretch={rng.uniform(0.75, 1.35):.3f}",
                "--setf",
                f"int_f0_target_mean={rng.uniform(85, 135):.1f}",
                "-t",
                WORDS[digit],
                "-o",
                wav,
            )
            yield digit, f"flite-{name}", index, *soundfile.read(wav)


def festival(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with the installed festival voices, one festival process per voice."""
    installed = command("festival", "-b", "(print (voice.list))")
    for name in (name for name in FESTIVAL if name in installed):
        voice, script = f"festival-{name.replace('_', '-')}", wav.with_suffix(".scm")
        script.write_text(
            "".join(
                f"(voice_{name}) "
                + FESTIVAL[name].format(stretch=rng.uniform(0.75, 1.35), pitch=rng.uniform(90, 135))
                + f'(utt.save.wave (utt.synth (Utterance Text "{WORDS[digit]}"))'
                + f' "{wav}-{digit}-{index}" \'riff)\n'
                for rng, digit, index in takes(voice, 12, seed)
            )
        )
        command("festival", "-b", script)
        for _, digit, index in takes(voice, 12, seed):
            yield digit, voice, index, *soundfile.read(f"{wav}-{digit}-{index}")


def hibari(seed: int, wav: Path) -> Iterator[Utterance]:
    """Speak with the one voice inside the package hibari-tts, at varied speed."""
    from hibari import Hibari

    model = Hibari()
    for rng, digit, index in takes("hibari-heart", 12, seed):
        audio = model.from_phonemes(
            HIBARI[digit], speed=rng.uniform(0.75, 1.35), seed=rng.getrandbits(32)
        )
        yield digit, "hibari-heart", index, audio, 24000


def trimmed(audio: np.ndarray, rate: int) -> np.ndarray:
    """Audio at 8 kHz with peak 0.7, cut to 20 ms around what is within 40 dB of the loudest 10 ms."""
    frame = (
        rate // 100
    )  # measured before resampling: above 4 kHz a first or last s is strong, below it is faint
    energy = np.square(audio[: len(audio) // frame * frame]).reshape(-1, frame).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 1e-4)
    audio = audio[max(0, (loud[0] - 2) * frame) : (loud[-1] + 3) * frame].astype(np.float64)
    audio = soxr.resample(audio, rate, RATE)
    return audio * (0.7 / np.abs(audio).max())


def main() -> None:
    """Write {digit}_{voice}_{index}.wav files for every engine that is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder to write the wav files to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for engine in (espeak, flite, festival, hibari):
        with tempfile.TemporaryDirectory() as folder:
            try:
                for digit, voice, index, audio, rate in engine(
                    arguments.seed, Path(folder) / "speech.wav"
                ):
                    path = arguments.output / f"{digit}_{voice}_{index}.wav"
                    soundfile.write(path, trimmed(audio, rate), RATE, subtype="PCM_16")
            except (ImportError, FileNotFoundError) as missing:
                print(f"{engine.__name__} skipped: {missing}", file=sys.stderr)


if __name__ == "__main__":
    main()
