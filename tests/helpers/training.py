"""Shared by tests."""

import json
from pathlib import Path

import numpy as np
import soundfile

from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

RATE = 1000


WORDS = ("one", "two", "three", "four")


TINY = EncoderConfig(
    hidden_size=15, num_layers=2, num_heads=3, intermediate_size=19, position_kernel=4, position_groups=5,
    conv_channels=(6, 8), conv_kernels=(5, 3), conv_strides=(3, 2), adapter_layers=1,
    training=EncoderTraining(mask_time_prob=0.2, mask_time_length=3, mask_time_min_masks=0, layerdrop=0.3),
)  # fmt: skip


SMALL = {
    "hidden_size": 28,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 33,
    "max_positions": 37,
}


def corpus(folder: Path, count: int = 8, languages: tuple[str, ...] = ("en",), **more) -> Path:
    """Clips of tones, a pitch for each word, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(3), []
    for i in range(count):
        said = rng.integers(0, len(WORDS), rng.integers(1, 4))
        time = np.arange(110 + 5 * i) / RATE
        tones = [0.3 * np.sin(2 * np.pi * (60 + 90 * word) * time) for word in said]
        sound = np.concatenate(tones) + 0.01 * rng.standard_normal(len(said) * len(time))
        soundfile.write(folder / f"{i}.wav", sound, RATE, subtype="FLOAT")
        text = " ".join(WORDS[word] for word in said)
        rows.append(
            {"audio": f"{i}.wav", "text": text, "language": languages[i % len(languages)]} | more
        )
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_folder(folder: Path, encoder: EncoderConfig = TINY, **decoder) -> Path:
    """A pair's config.json and rate of audio, without weights."""
    model = SpeechEncoderDecoder.from_configs(encoder, DecoderConfig.bert(9, **(SMALL | decoder)))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": RATE}))
    return folder


def config_of(folder: Path, train: Path, **more) -> TrainConfig:
    config = {"model": str(folder), "random": "both", "vocabulary": "bpe", "vocab_size": 40}
    return TrainConfig(
        **(config | {"train": str(train), "output": str(train.parents[1] / "run")} | more)
    )
