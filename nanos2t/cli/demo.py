"""`nanos2t demo`: transcribe the bundled recording in each language of the bundled model."""

import argparse
import time

import nanos2t
from nanos2t.cli.console import FAILED, NO_MODEL, exit_with, log_stderr, write_stdout
from nanos2t.cli.options import add_fast_option


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("demo", help="transcribe the bundled recording, in each language")
    parser.set_defaults(run=run)
    add_fast_option(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each language, and return the exit code."""
    from nanos2t.transcription import loading

    started = time.perf_counter()
    with exit_with(NO_MODEL):
        stt = nanos2t.load(fast=options.fast)

    sample = loading.BUNDLED.parent / "sample.wav"
    log_stderr(f"{sample}: spoken digits, written in each language of the bundled model")
    width = max(len(language) for language in stt.languages)
    for language in stt.languages:
        with exit_with(FAILED):
            result = stt.transcribe(sample, language=language)
        write_stdout(f"{language:>{width}}  {result}\n")

    log_stderr(
        f"{time.perf_counter() - started:.1f} s, with loading the model, without importing torch"
    )
    return 0
