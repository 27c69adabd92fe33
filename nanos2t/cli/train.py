"""`nanos2t train`: train a model on a manifest of audio and text."""

import argparse

from nanos2t.cli.console import FAILED, USAGE, exit_with
from nanos2t.training import config as train_config


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

    from nanos2t.training.run import run_training

    with exit_with(FAILED):
        run_training(config, resumed=options.resume is not None)
    return 0
