"""`nanos2t report`: a page for a browser that shows how a recording becomes text."""

import argparse
from pathlib import Path

from nanos2t import files
from nanos2t.cli.console import (
    FAILED,
    USAGE,
    CommandError,
    exit_with,
    log_stderr,
    open_source,
)
from nanos2t.cli.exercises import replaced_functions
from nanos2t.cli.options import (
    add_model_options,
    load_transcriber,
    model_files,
    parse_count,
    parse_seconds,
)


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
    for name, default in ("start", "the beginning"), ("end", "as much as a page should hold"):
        parser.add_argument(
            f"--{name}",
            type=parse_seconds,
            metavar="SECONDS",
            help=f"{name} of the part that is shown; default: {default}",
        )
    parser.add_argument(
        "--num-beams",
        type=parse_count,
        metavar="N",
        help="number of beams; default: the model's own, at least 4",
    )
    parser.add_argument(
        "--with",
        dest="work",
        metavar="DIR",
        help="show what the functions do that you wrote in tutorials/exercises",
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Write the page, and return the exit code."""
    if options.work is None:
        return write_page(options, [])

    # The exercises replace functions of the core, which the fast modules do not call.
    options.fast = False
    with replaced_functions(options.work) as own_functions:
        return write_page(options, own_functions)


def write_page(options: argparse.Namespace, own_functions: list[str]) -> int:
    """Write the page, which names functions of the user's own, and return 0."""
    from nanos2t.inspection import report

    start = options.start or 0.0
    if options.end is not None and options.end <= start:
        message = f"--end is {options.end:g} s, expected more than --start, {start:g} s"
        raise CommandError(message, USAGE)

    # Read the other page first: it may be the one that is written.
    other_runs = []
    if options.compare:
        with exit_with(USAGE):
            other_runs = [report.read_page(options.compare)]

    with exit_with(USAGE):
        files.check_outputs([options.output], [options.file, *model_files(options)])
    stt = load_transcriber(options)
    title = Path(options.file).name
    source = open_source(options.file)
    with exit_with(FAILED, f"{options.file}: "):
        this_run = report.analyse_recording(
            stt, source, title, options.language, options.num_beams, start, options.end
        )
        this_run["own_functions"] = own_functions

    # Say what is left out if its end was not chosen.
    part = report.describe_part(this_run)
    if part and options.end is None:
        log_stderr(f"{options.file}: {part}: --start and --end choose another part")

    with exit_with(FAILED):
        files.write_text(options.output, report.render_page([this_run, *other_runs]))
    return 0
