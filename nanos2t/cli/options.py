"""Options that several commands share, and the transcriber that they ask for."""

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import nanos2t
from nanos2t.cli.console import NO_MODEL, USAGE, exit_with

if TYPE_CHECKING:
    from nanos2t.transcription.transcriber import SpeechToText

MAX_COUNT = 1000
MAX_MEGABYTES = 10**6
MAX_SECONDS = 10**9
MAX_SEED = 999_999


def parse_count(text: str, most: int = MAX_COUNT) -> int:
    """Return a whole number from 1 to `most`, as argparse wants a type to do."""
    # Nine digits are enough to see that it is too large: int() refuses more than 4300.
    if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        message = f"{text[:40]!r}, expected a whole number from 1 to {most}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def parse_megabytes(text: str) -> int:
    """Return a size in megabytes, as argparse wants a type to do."""
    return parse_count(text, MAX_MEGABYTES)


def parse_seed(text: str) -> int:
    """Return the seed of an exercise's inputs, as argparse wants a type to do."""
    return parse_count(text, MAX_SEED)


def parse_seconds(text: str) -> float:
    """Return a time in seconds, as argparse wants a type to do."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SECONDS:
        message = f"{text[:40]!r}, expected seconds, 0 to {MAX_SECONDS}"
        raise argparse.ArgumentTypeError(message)
    return seconds


def add_fast_option(parser: argparse.ArgumentParser) -> None:
    """Add --fast and --no-fast."""
    parser.add_argument(
        "--fast",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use faster CPU kernels (the default); --no-fast runs the core as its source shows it",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, where it runs, and the language it writes."""
    parser.add_argument(
        "--model", help="folder or hub id; default: the bundled model (spoken numbers)"
    )
    parser.add_argument(
        "--language", help="language of the text: a code or name that `nanos2t info` lists"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, cuda:1 ... or auto; default: %(default)s"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        help="float32, bfloat16 ..., int8 or auto; default: %(default)s",
    )
    add_fast_option(parser)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that transcribe many recordings."""
    parser.add_argument(
        "--num-beams",
        type=parse_count,
        metavar="N",
        help="number of beams; default: the model's own",
    )
    parser.add_argument(
        "--batch-size",
        type=parse_count,
        default=8,
        metavar="N",
        help="pieces of audio in one batch; default: %(default)s",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar and no warnings")


def search_options(options: argparse.Namespace) -> dict[str, int]:
    """Return the options of the search that the command line names."""
    if options.num_beams is None:
        return {}
    return {"num_beams": options.num_beams}


def model_files(options: argparse.Namespace) -> list[Path]:
    """Return the files of the model, if --model is a folder: no output may replace them."""
    if options.model is None:
        return []
    return list_files(options.model)


def list_files(folder: str) -> list[Path]:
    """Return the files in a folder, without those in folders below it; none if it is missing."""
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        return []
    return [file for file in path.iterdir() if file.is_file()]


def load_transcriber(options: argparse.Namespace) -> "SpeechToText":
    """Load the transcriber that the options ask for.

    CommandError: USAGE for a device, dtype or language that is not known, NO_MODEL for a model that
    cannot be loaded or has no start token.
    """
    from nanos2t.fast.dtypes import check_fast_dtype
    from nanos2t.transcription import loading

    # Messages begin with the name of the argument: "--" makes the name of the flag of it.
    with exit_with(USAGE, "--"):
        device = loading.choose_device(options.device)
        dtype = loading.choose_dtype(options.dtype)
        check_fast_dtype(dtype, device)

    with exit_with(NO_MODEL):
        stt = nanos2t.load(options.model, device=device, dtype=dtype, fast=options.fast)

    # Find out now, not at the first input.
    with exit_with(USAGE):
        stt.generation_options(options.language, search_options(options))
    with exit_with(NO_MODEL, f"{options.model}: "):
        stt.model.generation.require_id("decoder_start_token_id")
    return stt
