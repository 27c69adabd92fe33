"""The bundled model's task: one to four spoken English digits in, the number in words out.

    recordings -> prepare: utterances and manifests -> nanos2t train -> pack: the bundled model
    recordings and a model -> evaluate

Recordings are named `{digit}_{speaker}_{index}.wav`, as in the Free Spoken Digit Dataset; the index
decides the split. tutorials/train_spoken_numbers.md has the commands.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from digits import LANGUAGES, draw_digits, spell, spell_all
from effects import RATE
from hard_sets import HardSet, draw_hard_sets, draw_set
from hard_table import LeftOut, Row, format_left_out, format_table, score_texts, write_card
from prompts import SPEAKERS
from torch import nn
from tqdm import tqdm
from utterances import (
    KEPT_VOICES,
    PARTS,
    TRAINING,
    Conditions,
    Item,
    Recordings,
    draw_plain,
    draw_utterance,
    draw_validation_set,
    is_synthetic,
)

import nanos2t
from nanos2t.generate import decode_memory
from nanos2t.transcription.transcriber import SpeechToText

BATCH_SIZE = 50


# Prepare


def prepare(options: argparse.Namespace) -> None:
    """Write what `nanos2t train` reads: drawn utterances, a validation set, and their manifests."""
    left_out = options.leave_out
    recordings = Recordings(options.data, "train", is_wanted=lambda name: name != left_out)
    held_out = Recordings(options.data, "dev", is_wanted=lambda name: left_out in ("", name))

    def draw_item(number: int) -> Item:
        rng = np.random.default_rng((options.seed, number))
        plain = options.conditions.plain
        if plain and rng.random() < plain:
            return draw_plain(recordings, rng, options.conditions)
        digits = draw_digits(rng, options.most, options.conditions.empty)
        return digits, draw_utterance(digits, recordings, rng, options.conditions)

    items = map(draw_item, range(options.count))
    write_items(tqdm(items, total=options.count, disable=None), "train", options.output)
    write_items(draw_validation_set(held_out, 100, 7, options.most), "dev", options.output)


def write_items(items: Iterable[Item], name: str, output: Path) -> None:
    """Write utterances to output/name/, and to name.jsonl a line for each text of each of them."""
    (output / name).mkdir(parents=True, exist_ok=True)
    with open(output / f"{name}.jsonl", "w") as file:
        for i, (digits, waveform) in enumerate(items):
            path = f"{name}/{i:05d}.wav"
            loud = waveform * (0.9 / np.abs(waveform).max())
            soundfile.write(output / path, loud, RATE, "PCM_16")
            for language, text in spell_all(digits).items():
                file.write(json.dumps({"audio": path, "text": text, "language": language}) + "\n")


# Pack


def pack(options: argparse.Namespace) -> None:
    """Copy a trained model with its weights rounded to float16, so that it is small."""
    stt = nanos2t.load(options.model)
    if options.mix:
        mix_weights(stt.model, nanos2t.load(options.mix).model, options.share)
    stt.model.half()
    stt.save_pretrained(options.output)

    # The weights are loaded as float32 all the same.
    path = options.output / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def mix_weights(model: nn.Module, other: nn.Module, share: float) -> None:
    """Move the weights of `model` by a share of the way to those of `other`.

    A model that was trained further for hard conditions, mixed with the one that it began as, is
    good in both (Wortsman et al. 2022, Robust fine-tuning of zero-shot models). ValueError: the
    models differ in more than the values of their weights, or the share is not in 0 .. 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--share is {share:g}, expected 0 to 1")
    weights = model.state_dict()
    targets = other.state_dict()
    shapes = {name: weight.shape for name, weight in weights.items()}
    if shapes != {name: target.shape for name, target in targets.items()}:
        raise ValueError("--mix: its weights have other names or shapes than those of --model")
    for name, weight in weights.items():
        weight.lerp_(targets[name], share)


# Evaluate


def evaluate(options: argparse.Namespace) -> None:
    """Print how many numbers by people, joined from recordings of `--part`, are written right."""
    if options.hard:
        evaluate_hard(options)
        return
    stt = nanos2t.load(options.model)
    speakers = options.speaker
    recordings = Recordings(
        options.data,
        *options.part,
        is_wanted=lambda name: not speakers or name in speakers,
    )
    items = draw_validation_set(recordings, options.count, options.seed, options.most)

    scores = {"count": options.count, "speakers": recordings.people}
    if options.compare:
        dtype = "float32" if options.compare == "fast" else options.compare
        other = nanos2t.load(options.model, dtype=dtype, fast=True)
        equal = compute_shares(transcribe_items(other, items), transcribe_items(stt, items))
        scores |= {"the same in": options.compare, **equal}
    else:
        scores |= compute_scores(stt, items)
    print(json.dumps(scores))


def evaluate_hard(options: argparse.Namespace) -> None:
    """Print a table of the share that is right in hard conditions, and write it into a card."""
    people = Recordings(options.data, "dev", is_wanted=lambda name: not is_synthetic(name))
    kept = find_kept_speakers(options.data)
    strangers = None
    if kept:
        strangers = Recordings(options.data, "test", is_wanted=kept.__contains__)
    stt = nanos2t.load(options.model)
    sets = draw_hard_sets(people.clips, strangers, options.count)
    rows = []
    for hard_set in sets:
        rows.append(score_set(stt, hard_set))
        print(rows[-1], file=sys.stderr, flush=True)

    table = format_table(rows)
    if options.left_out:
        models = [score_left_out(*pair, options) for pair in options.left_out]
        table += f"\n{format_left_out(models)}"
    print(table, end="")
    if options.card:
        write_card(options.card, table)


def score_left_out(person: str, folder: str, options: argparse.Namespace) -> LeftOut:
    """Measure another model with a person it was trained without, and with the other people."""
    stt = nanos2t.load(folder)
    unseen = Recordings(options.data, "train", "dev", is_wanted=person.__eq__)
    known = Recordings(
        options.data, "dev", is_wanted=lambda name: name != person and not is_synthetic(name)
    )
    rows = [
        score_set(stt, draw_set(folder, recordings.clips, options.count, is_mixed=False))
        for recordings in (unseen, known)
    ]
    print(*rows, file=sys.stderr, flush=True)
    return LeftOut(person, *rows)


def find_kept_speakers(folders: list[Path]) -> set[str]:
    """Return the voices and the people of the folders who are only to measure a model."""
    paths = [path for folder in folders for path in folder.glob("[0-9]_*_*.wav")]
    return {*KEPT_VOICES, *SPEAKERS} & {path.stem.split("_")[1] for path in paths}


def score_set(stt: SpeechToText, hard_set: HardSet) -> Row:
    """Compare the digits of a set with what a model writes verbatim."""
    expected = [spell(digits, "verbatim") for digits, _ in hard_set.items]
    written = transcribe_items(stt, hard_set.items, ("verbatim",))["verbatim"]
    return score_texts(hard_set.condition, expected, written)


@torch.no_grad()
def transcribe_items(
    stt: SpeechToText, items: list[Item], languages: tuple[str, ...] = LANGUAGES
) -> dict[str, list[str]]:
    """Transcribe utterances in each language that the model writes, with greedy search."""
    texts = {language: [] for language in languages if language in stt.languages}
    for start in range(0, len(items), BATCH_SIZE):
        waveforms = [waveform for _, waveform in items[start : start + BATCH_SIZE]]
        memory, frame_lengths = stt.model.encode(*stt.prepare(waveforms))
        for language in texts:
            search = stt.generation_options(language, {"num_beams": 1})
            rows = decode_memory(stt.model, memory, frame_lengths, search).sequences
            texts[language] += [stt.decode_tokens(row) for row in rows.tolist()]
    return texts


def compute_scores(stt: SpeechToText, items: list[Item]) -> dict[str, float]:
    """Return the share of utterances that are transcribed exactly right."""
    expected = {
        language: [spell(digits, language) for digits, _ in items] for language in LANGUAGES
    }
    return compute_shares(transcribe_items(stt, items), expected)


def compute_shares(texts: dict[str, list[str]], expected: dict[str, list[str]]) -> dict[str, float]:
    """Return the share of texts that are as expected: over all languages ("exact") and in each."""
    shares = {}
    for language, own in texts.items():
        equal = [text == right for text, right in zip(own, expected[language])]
        shares[language] = float(np.mean(equal))
    mean = float(np.mean([*shares.values()]))
    return {name: round(share, 4) for name, share in {"exact": mean, **shares}.items()}


# The command line


def parse_conditions(text: str) -> Conditions:
    """Return TRAINING with the numbers of a JSON object in the place of its own."""
    changes = json.loads(text)
    known = {field.name for field in fields(Conditions)}
    if not isinstance(changes, dict) or not changes.keys() <= known:
        raise argparse.ArgumentTypeError(
            f"expected an object with some of {sorted(known)}, found {text}"
        )

    for name, value in changes.items():
        default = getattr(TRAINING, name)
        numbers = np.atleast_1d(value)
        is_numeric = numbers.dtype.kind in "fi"
        if not is_numeric or numbers.shape != np.atleast_1d(default).shape:
            raise argparse.ArgumentTypeError(f"{name} is {value!r}, expected {default} or so")
    return replace(TRAINING, **changes)


def parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return int(text)


def parse_left_out(text: str) -> tuple[str, str]:
    speaker, equals, model = text.partition("=")
    if not speaker or not model:
        raise argparse.ArgumentTypeError(f"expected SPEAKER=MODEL, found {text}")
    return speaker, model


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add_command(job) -> argparse.ArgumentParser:
        command = commands.add_parser(job.__name__, help=job.__doc__)
        command.set_defaults(job=job)
        return command

    def add_data(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--data", nargs="+", type=Path, required=True, help="folders of recordings"
        )
        command.add_argument(
            "--most", type=int, default=4, choices=range(1, 5), help="digits of a number, at most"
        )

    command = add_command(prepare)
    add_data(command)
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--count", type=parse_count, default=24000, help="utterances to train on")
    command.add_argument("--leave-out", default="", metavar="SPEAKER")
    command.add_argument(
        "--conditions",
        type=parse_conditions,
        default=TRAINING,
        metavar="JSON",
        help='changes to TRAINING in utterances.py: {"cut": 0}',
    )
    command.add_argument("--seed", type=int, default=1)

    command = add_command(pack)
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--model", required=True, help="folder")
    command.add_argument("--mix", help="folder of another model, to mix the weights with")
    command.add_argument("--share", type=float, default=0.25, help="of the other one's weights")

    command = add_command(evaluate)
    add_data(command)
    add_evaluation(command)
    return parser


def add_evaluation(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help="folder; default: the bundled model")
    command.add_argument("--count", type=parse_count, default=1000)
    command.add_argument("--seed", type=int, default=11)
    command.add_argument(
        "--compare",
        metavar="MODE",
        help="print how many texts are the same in another mode: fast (float32) or a dtype",
    )
    command.add_argument(
        "--part", nargs="+", default=["dev"], choices=PARTS, help="default: dev, never trained on"
    )
    command.add_argument("--speaker", nargs="+", help="only these; default: all")
    command.add_argument(
        "--hard",
        action="store_true",
        help="print a table: strangers, noises, rooms, codecs, no digits (--count of each)",
    )
    command.add_argument("--card", type=Path, help="with --hard: write the table into this file")
    command.add_argument(
        "--left-out",
        nargs="+",
        type=parse_left_out,
        default=[],
        metavar="SPEAKER=MODEL",
        help="with --hard: models that were trained without a speaker, several for each",
    )


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    try:
        options.job(options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except ModuleNotFoundError as error:
        parser.exit(1, f"{parser.prog}: needs {error.name}: pip install {error.name}\n")


if __name__ == "__main__":
    main()
