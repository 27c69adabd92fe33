"""`nanos2t eval`: score a model on a manifest."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nanos2t import files
from nanos2t.cli.console import (
    FAILED,
    USAGE,
    CommandError,
    exit_with,
    hides_progress,
    log_stderr,
    open_items_bar,
    show_log,
    show_warnings,
    write_stdout,
)
from nanos2t.cli.options import (
    add_batch_options,
    add_model_options,
    load_transcriber,
    model_files,
    search_options,
)

if TYPE_CHECKING:
    from nanos2t.training.manifest import Item


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("eval", help="score a model on a manifest of audio and text")
    parser.set_defaults(run=run)
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="lines of JSON with audio and text, and optionally language, start, end",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="compare without case and punctuation; default: as written",
    )
    parser.add_argument(
        "--json", action="store_true", help="print scores, the worst items and all items as JSON"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write this JSON to a file, too"
    )
    add_batch_options(parser)
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the scores. The exit code is FAILED if an item could not be transcribed."""
    check_packages()
    from nanos2t.training import evaluation
    from nanos2t.training.manifest import read_manifest

    with exit_with(USAGE), show_log(options.quiet):
        items = read_manifest(options.manifest)
        check_output(options, items)
    show_warnings(options.quiet)
    stt = load_transcriber(options)

    with open_items_bar(len(items), hides_progress(options.quiet)) as bar:
        results = evaluation.transcribe_items(
            stt,
            items,
            options.batch_size,
            progress=bar.update,
            language=options.language,
            return_errors=True,
            **search_options(options),
        )
    normalise = str
    if options.normalise:
        normalise = evaluation.normalise_text
    scores = evaluation.evaluate_results(items, results, normalise)

    # Every failed item has a line, whatever the format.
    failed = [row for row in scores["items"] if "error" in row]
    for row in failed:
        log_stderr(f"{row['audio']}: {row['error']}")

    # An empty text is rarely meant: a field that was never filled in, or punctuation alone.
    num_empty = len([row for row in scores["items"] if not row["text"].strip()])
    if num_empty and not options.quiet:
        log_stderr(
            f"{options.manifest}: {num_empty} of {len(items)} texts are empty: "
            "they are no errors if nothing is transcribed, and are not counted as right"
        )

    scores_json = json.dumps(scores, ensure_ascii=False) + "\n"
    shown = scores_json if options.json else evaluation.render_evaluation(scores)
    try:
        write_stdout(shown, is_needed=options.output is None)
    finally:
        # Also if nobody reads stdout to its end: to compute the scores may have taken hours.
        if options.output:
            with exit_with(FAILED):
                files.write_text(options.output, scores_json)
    return FAILED if failed else 0


def check_output(options: argparse.Namespace, items: "list[Item]") -> None:
    """Raise ValueError if --output would be written over something that is read."""
    if options.output:
        recordings = {item.audio for item in items}
        inputs = [options.manifest, *recordings, *model_files(options)]
        files.check_outputs([options.output], inputs)


def check_packages() -> None:
    """Raise CommandError if a package that computes scores is not installed."""
    missing = [name for name in ("jiwer", "sacrebleu") if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise CommandError(f"eval needs {names}, not installed: pip install {names}", USAGE)
