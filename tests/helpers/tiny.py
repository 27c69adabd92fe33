"""A tiny model whose random weights tell sounds apart, its folder, and the sounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from helpers.pairs import spread_
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

tokenizers = pytest.importorskip("tokenizers")

RATE = 8000

PIECES = ["<pad>", "<s>", "</s>", "<en>", "<de>", "zwei", "größer"]
PIECES += [f"w{i}" for i in range(7, 40)]

LANGUAGES = {"en": 3, "de": 4}

# Many ends of a text, so that random weights choose one now and then.
ENDS = [2, 9, 14, 21, 27, 33]

ENCODER = EncoderConfig(
    hidden_size=15,
    num_layers=1,
    num_heads=3,
    intermediate_size=19,
    conv_channels=(6, 8, 10),
    conv_kernels=(10, 8, 4),
    conv_strides=(5, 8, 4),
    position_kernel=4,
    position_groups=5,
)

DECODER = DecoderConfig.bert(
    40, hidden_size=28, num_layers=2, num_heads=4, intermediate_size=33, max_positions=17
)


def save_tiny(
    folder: Path, tokenizer: bool = True, preprocessor: bool = True, seed: int = 2233, **ids
) -> Path:
    """Write the folder of a tiny model in float64. With this seed most SOUNDS have own texts.

    ids: options of generation that replace or add to those below.
    """
    ids = {
        "decoder_start_token_id": 1,
        "eos_token_id": ENDS,
        "pad_token_id": 0,
        "max_length": 12,
    } | ids
    model = SpeechEncoderDecoder.from_configs(ENCODER, DECODER, GenerationConfig(**ids))
    spread_(model.double(), torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    if tokenizer:
        backend = tokenizers.Tokenizer(
            tokenizers.models.WordLevel(dict(zip(PIECES, range(40))), unk_token="<s>")
        )
        backend.add_special_tokens(PIECES[:5])
        backend.save(str(folder / "tokenizer.json"))
    if preprocessor:
        config = {"sampling_rate": RATE, "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def sound(seconds: float, seed: int = 2233) -> np.ndarray:
    """Return a tone that comes and goes, in noise: float32 (L,) at RATE."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * random.uniform(100, 900) * time) * np.sin(random.uniform(2, 9) * time)
    return (0.3 * tone + 0.1 * random.standard_normal(len(time))).astype(np.float32)


def write(path: Path, waveform: np.ndarray, rate: int = RATE, **more) -> Path:
    soundfile.write(path, waveform, rate, **{"subtype": "FLOAT"} | more)
    return path


SOUNDS = [
    sound(seconds, seed) for seed, seconds in enumerate((0.4, 1.1, 0.03, 0.7, 0.001, 0.5, 1.6, 0.4))
]
