"""`nanos2t info`: what a model is, how its weights are named, what happens in it to a recording."""

import argparse

import nanos2t
from nanos2t.cli.console import FAILED, NO_MODEL, exit_with, write_stdout


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("info", help="describe a model: sizes, languages, ids")
    parser.set_defaults(run=run)
    parser.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    views = parser.add_mutually_exclusive_group()
    views.add_argument(
        "--map",
        action="store_true",
        help="list each tensor: its name in the file, our name, its shape, the rule",
    )
    views.add_argument(
        "--trace",
        metavar="FILE",
        help="run the model on this audio file and list each stage: shape, time, values",
    )


def run(options: argparse.Namespace) -> int:
    """Print the description, and return the exit code."""
    from nanos2t.inspection import info, trace
    from nanos2t.transcription import loading

    with exit_with(NO_MODEL):
        folder = loading.find_model_folder(options.model)
        if options.map:
            lines = info.tensor_map(folder)
        elif options.trace:
            # A trace shows the core, so the model is not made fast.
            stt = nanos2t.load(folder)
            with exit_with(FAILED):
                waveform = stt.load_audio(options.trace)
            lines = trace.render_trace(stt, waveform)
        else:
            lines = info.describe_model(folder)

        # The lines are computed while they are written.
        for line in lines:
            write_stdout(f"{line}\n")
    return 0
