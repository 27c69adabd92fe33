"""`nanos2t parity`: compare a model with transformers, stage by stage."""

import argparse
import json
from importlib.util import find_spec

import nanos2t
from nanos2t.cli.console import FAILED, NO_MODEL, USAGE, CommandError, exit_with, write_stdout


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser("parity", help="compare with transformers, stage by stage")
    parser.set_defaults(run=run)
    parser.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    parser.add_argument(
        "--audio", metavar="FILE", help="audio file; default: the bundled recording"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="dtype of both models; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the comparison. The exit code is FAILED if a stage departs from transformers'."""
    if find_spec("transformers") is None:
        message = "parity needs transformers, which is not installed: pip install transformers"
        raise CommandError(message, USAGE)
    from nanos2t.inspection import parity
    from nanos2t.transcription import loading

    with exit_with(NO_MODEL):
        # The core is compared, so the model is not made fast.
        folder = loading.find_model_folder(options.model)
        dtype = loading.choose_dtype(options.dtype)
        stt = nanos2t.load(folder, dtype=dtype)
        with exit_with(FAILED):
            waveform = stt.load_audio(options.audio or loading.BUNDLED.parent / "sample.wav")
        input_values, _ = stt.prepare([waveform])  # (1, L)
        theirs = parity.load_theirs(folder, dtype)
        rows = parity.compare_models(stt.model, theirs, input_values)

    departure = parity.first_departure(rows)
    if options.json:
        stages = [vars(row) for row in rows]
        write_stdout(json.dumps({"first_departure": departure, "stages": stages}) + "\n")
    else:
        write_stdout(parity.render_parity(rows))
    if departure is not None:
        return FAILED
    return 0
