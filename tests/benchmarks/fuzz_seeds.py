"""Whole files of every kind that nanos2t reads, from which fuzz.py makes damaged ones."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

# The helpers import each other by these names.
sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.pairs import ADAPTER, spread_
from helpers.tiny import LANGUAGES, save_tiny
from helpers.vocabularies import bert, fast_bpe, gpt2, mbart50

from nanos2t import audio
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED

ROOT = Path(__file__).parents[2]

# Format, subtype, sample rate in Hz, channels.
SOUNDS = [
    ("WAV", "PCM_16", 8000, 1),
    ("WAV", "FLOAT", 11_025, 2),
    ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "IMA_ADPCM", 8000, 1),
    ("WAV", "GSM610", 8000, 1),
    ("WAVEX", "PCM_24", 16_000, 2),
    ("FLAC", "PCM_16", 16_000, 1),
    ("FLAC", "PCM_24", 8000, 2),
    ("OGG", "VORBIS", 16_000, 1),
    ("OGG", "OPUS", 16_000, 1),
    ("MP3", "MPEG_LAYER_III", 16_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("AIFF", "PCM_16", 8000, 1),
    ("AU", "ULAW", 8000, 1),
    ("CAF", "ALAC_16", 8000, 1),
    ("W64", "PCM_16", 8000, 1),
]

# Decoders of four families, and what writes their vocabularies. Sizes of the decoder:
SIZES = {
    "hidden_size": 28,
    "num_layers": 1,
    "num_heads": 4,
    "intermediate_size": 33,
    "max_positions": 37,
}
GPT2 = {"pre_norm": True, "embed_norm": False, "activation": "gelu_tanh", "pad_token_id": None}
MBART = {"position_offset": 2, "embed_scale": 28**0.5, "pre_norm": True}
FAMILIES = {
    "bert": (bert, DecoderConfig.bert(2500, **SIZES)),
    "gpt2": (gpt2, DecoderConfig(1501, **SIZES, **GPT2)),
    "mbart": (mbart50, DecoderConfig(1460, **SIZES, **MBART)),
    "s2t": (fast_bpe, DecoderConfig.bert(160, **SIZES)),
}


def build_seeds(folder: Path) -> None:
    """Write audio, models of five sorts, and the tables, each in a folder of its own."""
    write_sounds(folder / "audio")
    save_tiny(
        folder / "json",
        lang_to_id=LANGUAGES,
        forced_bos_token_id=4,
        num_beams=2,
        no_repeat_ngram_size=3,
    )
    for name in FAMILIES:
        write_model(folder / name, name)

    # Weights in other formats: both of pickles, and shards.
    save_as_pickle(folder / "gpt2", zipped=True)
    save_as_pickle(folder / "s2t", zipped=False)
    save_as_shards(folder / "mbart")
    shutil.copytree(ROOT / "weights_map", folder / "tables", ignore=shutil.ignore_patterns("*.md"))


def write_sounds(folder: Path) -> None:
    """Write a part of the bundled sample, and a tone in noise after it, in each of SOUNDS."""
    folder.mkdir(parents=True)
    for number, (format, subtype, rate, channels) in enumerate(SOUNDS):
        sample = audio.load_audio(BUNDLED.parent / "sample.wav", rate)[: rate * 3 // 2]
        times = np.arange(rate // 2) / rate
        noise = np.random.default_rng(number).standard_normal(rate // 2)
        tone = 0.3 * np.sin(2 * np.pi * 440 * times) + 0.01 * noise
        waveform = np.concatenate([sample, tone])  # (L,)
        sound = np.repeat(waveform[:, None], channels, axis=1)  # (L, channels)

        path = folder / f"{number:02}-{subtype.lower()}.{format.lower()}"
        with soundfile.SoundFile(path, "w", rate, channels, subtype, format=format) as file:
            for start in range(0, len(sound), 4096):
                file.write(sound[start : start + 4096])


def write_model(folder: Path, family: str) -> None:
    """Write a tiny pair with a decoder and the vocabulary of a family."""
    write_vocabulary, decoder = FAMILIES[family]
    generation = GenerationConfig(
        decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, max_length=9
    )
    model = spread_(SpeechEncoderDecoder.from_configs(ADAPTER, decoder, generation))
    model.save_pretrained(folder)
    write_vocabulary(folder)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000, "chunk_length": 20}')


def save_as_pickle(folder: Path, zipped: bool) -> None:
    """Save the weights of a model as a pickle instead, in the format of torch 1.6 or before."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


def save_as_shards(folder: Path) -> None:
    """Save the weights of a model as two files with an index instead."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    files = {}
    for i, name in enumerate(sorted(tensors)):
        files[name] = f"model-0000{1 + i % 2}-of-00002.safetensors"
    for file in set(files.values()):
        shard = {name: tensors[name] for name in files if files[name] == file}
        save_file(shard, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
