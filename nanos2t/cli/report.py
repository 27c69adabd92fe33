"""`nanos2t report`: a page for a browser that shows how a recording becomes text."""

import argparse
from pathlib import Path

from nanos2t import files
from nanos2t.cli.console import FAILED, USAGE, exit_with, open_source
from nanos2t.cli.options import add_model_options, load_transcriber, parse_count


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("report", help="show how a recording becomes text, as a web page")
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="an audio file, or - for stdin")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PAGE", help="the file to write"
    )
    parser.add_argument(
        "--compare",
        metavar="PAGE",
        help="a page that was written before, to show next to this one",
    )
    parser.add_argument(
        "--num-beams",
        type=parse_count,
        metavar="N",
        help="number of beams; default: the model's own, at least 4",
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page, and return the exit code."""
    from nanos2t.inspection import report

    # Read the other page first: it may be the one that is written.
    other_runs = []
    if options.compare:
        with exit_with(USAGE):
            other_runs = [report.read_page(options.compare)]

    stt = load_transcriber(options)
    title = Path(options.file).name
    source = open_source(options.file)
    with exit_with(FAILED, f"{options.file}: "):
        this_run = report.analyse_recording(stt, source, title, options.language, options.num_beams)

    with exit_with(FAILED):
        files.write_text(options.output, report.render_page([this_run, *other_runs]))
    return 0
