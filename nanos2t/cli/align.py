"""`nanos2t align`: find when each word of a given text is spoken."""

import argparse

from nanos2t.cli.console import FAILED, exit_with, open_source, write_stdout
from nanos2t.cli.options import add_model_options, load_transcriber
from nanos2t.transcription.formats import FORMATS, render


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("align", help="find when each word of a given text is spoken")
    parser.set_defaults(run=run, num_beams=None)
    parser.add_argument("file", metavar="FILE", help="an audio file, or - for stdin")
    parser.add_argument(
        "text", metavar="TEXT", help="the text of the recording, in the language of --language"
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="tsv", help="default: %(default)s"
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print the text with its times, and return the exit code."""
    from nanos2t.transcription.forced_alignment import align_text

    stt = load_transcriber(options)
    source = open_source(options.file)
    with exit_with(FAILED, f"{options.file}: "):
        result = align_text(stt, source, options.text, options.language)
    write_stdout(render(result, options.format, options.file))
    return 0
