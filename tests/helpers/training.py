"""Shared by the tests of training: tiny data, models and runs, and what runs leave."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

RATE = 1000
WORDS = ("one", "two", "three", "four")

TINY = EncoderConfig(
    hidden_size=15,
    num_layers=2,
    num_heads=3,
    intermediate_size=19,
    position_kernel=4,
    position_groups=5,
    conv_channels=(6, 8),
    conv_kernels=(5, 3),
    conv_strides=(3, 2),
    adapter_layers=1,
    training=EncoderTraining(
        mask_time_prob=0.2, mask_time_length=3, mask_time_min_masks=0, layerdrop=0.3
    ),
)

SMALL = {
    "hidden_size": 28,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 33,
    "max_positions": 37,
}


def corpus(folder: Path, count: int = 8, languages: tuple[str, ...] = ("en",), **more) -> Path:
    """Write clips of tones, a pitch for each word, and their manifest, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    rows = []
    for i in range(count):
        words = rng.integers(0, len(WORDS), rng.integers(1, 4))
        time = np.arange(110 + 5 * i) / RATE
        tones = [0.3 * np.sin(2 * np.pi * (60 + 90 * word) * time) for word in words]
        sound = np.concatenate(tones) + 0.01 * rng.standard_normal(len(words) * len(time))
        soundfile.write(folder / f"{i}.wav", sound, RATE, subtype="FLOAT")
        text = " ".join(WORDS[word] for word in words)
        language = languages[i % len(languages)]
        rows.append({"audio": f"{i}.wav", "text": text, "language": language} | more)
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_folder(folder: Path, encoder: EncoderConfig = TINY, **decoder) -> Path:
    """Write a pair's config.json and sample rate, without weights."""
    model = SpeechEncoderDecoder.from_configs(encoder, DecoderConfig.bert(9, **(SMALL | decoder)))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": RATE}))
    return folder


def config_of(folder: Path, train: Path, **more) -> TrainConfig:
    """The config of a run that begins with the configs in `folder` and a new vocabulary."""
    options = {"model": str(folder), "random": "both", "vocabulary": "bpe", "vocab_size": 40}
    options |= {"train": str(train), "output": str(train.parents[1] / "run")}
    return TrainConfig(**(options | more))


def tiny_run(folder: Path, **more) -> TrainConfig:
    """The config of twelve steps with all that is random: dropouts, masks, speed, noise."""
    if not (folder / "data").exists():
        corpus(folder / "data", languages=("en", "de"))
        config_folder(folder / "model")
    data = folder / "data" / "a.jsonl"
    options = {
        "dev": str(data),
        "steps": 12,
        "accumulate": 2,
        "batch_seconds": 0.8,
        "save_every": 4,
        "validate_every": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "speed": 0.1,
        "noise": 0.5,
        "best": "exact",
    }
    return config_of(folder / "model", data, **(options | more))


def command_line(config: TrainConfig) -> list[str]:
    """The arguments of `nanos2t` that ask for this config."""
    arguments = ["train"]
    for name, value in vars(config).items():
        if value == getattr(TrainConfig, name):
            continue
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments.append(str(value))
    return arguments


def read_weights(folder: str | Path, name: str = "last") -> dict[str, torch.Tensor]:
    """The weights of one of a run's models."""
    return load_file(Path(folder) / name / "model.safetensors")


def model_weights(module: dict) -> dict[str, torch.Tensor]:
    """The model's weights among those of a TrainingModule."""
    weights = {}
    for name, value in module.items():
        if name.startswith("model."):
            weights[name.removeprefix("model.")] = value
    return weights


def distance(first: dict, second: dict) -> float:
    """The largest difference between weights of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def folder_contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
