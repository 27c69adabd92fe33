"""Shared by the tests of training."""

from pathlib import Path

import pytest
from helpers.training import config_folder, config_of, corpus, tiny_run

from nanos2t.training.manifest import read_manifest
from nanos2t.training.run import run_training
from nanos2t.training.start import prepare_transcriber


@pytest.fixture
def setup(tmp_path: Path):
    """A transcriber, the items of a manifest in two languages, and a config."""
    path = corpus(tmp_path / "data", languages=("en", "de"))
    config = config_of(config_folder(tmp_path / "model"), path, batch_seconds=0.9, max_seconds=5.0)
    items = read_manifest(path)
    (tmp_path / "start").mkdir()
    return prepare_transcriber(config, items, tmp_path / "start"), items, config


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A run that was never stopped, not to be changed: its config, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_run(folder, average=2)
    run_training(config)
    return config, folder
