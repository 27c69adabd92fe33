"""`nanos2t train`: train a model on a manifest of audio and text."""

import argparse
from pathlib import Path

from nanos2t.cli.console import FAILED, NO_MODEL, USAGE, exit_with, show_log
from nanos2t.cli.options import list_files
from nanos2t.files import check_outputs
from nanos2t.training import config as train_config

RUN_FILES = (
    "train.json",
    "skipped.txt",
    "manifests.json",
    "log.jsonl",
    "state.pt",
    "run.lock",
)


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "train",
        help="train a model, or two halves of one, on a manifest of audio and text",
        epilog="--encoder-KEY VALUE and --decoder-KEY VALUE change a field of the config.json of a "
        "half, in transformers' names: --encoder-add-adapter, --encoder-num-adapter-layers 2",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--config", metavar="FILE", help="JSON or TOML with the names of the flags below"
    )
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    train_config.add_flags(parser)


def add_config_changes(options: argparse.Namespace, words: list[str]) -> None:
    """Add the fields of config.json in the words that no flag of the parser is for."""
    with exit_with(USAGE):
        changes = train_config.parse_config_changes(words)
    vars(options).update(changes)


def run(options: argparse.Namespace) -> int:
    """Train, and return the exit code."""
    flags = dict(vars(options))
    for name in "command", "run", "config", "resume":
        del flags[name]
    with exit_with(USAGE):
        config = train_config.resolve_config(flags, options.config, options.resume)
        check_run_folder(config, options)

    from nanos2t.training.run import run_training
    from nanos2t.training.start import ModelError
    from nanos2t.transcription.loading import choose_device

    # The message begins with the name of the argument: "--" makes the name of the flag of it.
    with exit_with(USAGE, "--"):
        choose_device(config.device)

    with exit_with(FAILED), exit_with(NO_MODEL, kinds=(ModelError,)), show_log():
        run_training(config, resumed=options.resume is not None)
    return 0


def check_run_folder(config: train_config.TrainConfig, options: argparse.Namespace) -> None:
    """Raise ValueError if the run would write over one of the files that it reads.

    A resumed run reads its own folder: there, only the manifests are compared.
    """
    inputs = [Path(config.train)]
    if config.dev:
        inputs.append(Path(config.dev))
    if not options.resume:
        if options.config:
            inputs.append(Path(options.config))
        for folder in (config.model, config.encoder, config.decoder):
            if folder:
                inputs += list_files(folder)

    # What the run writes: its own files, those of the tokenizer, and the models.
    from nanos2t.transcription.transcriber import PROCESSOR_FILES

    output = Path(config.output)
    outputs = [output / name for name in (*RUN_FILES, *PROCESSOR_FILES)]
    for name in ("best", "last", "average"):
        outputs += list_files(output / name)
    check_outputs(outputs, inputs)
