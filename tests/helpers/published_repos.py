"""Tiny stand-ins for published repositories: their names, files and families, and one sentence.

Each model says its sentence of one recording: the matrix of its head is made so that each hidden
state of the sentence gives its next token. All else is random.
"""

import io
import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from helpers.pairs import BART, ENCODER, LARGE, SINUSOIDAL, s2t_folder, spread_, tiny_pair
from helpers.vocabularies import bart, fast_bpe, mbart50
from nanos2t.audio import load_audio, normalise
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription.vocabularies import load_tokenizer

RATE = 16000
UTTERANCES = ("1272-141231-0000", "1272-128104-0000")
START = 2  # also the end, as in mBART and BART
SIZES = {"d_model": 96, "vocab_size": 2000, "max_position_embeddings": 110}
UNTIED = BART | SIZES | {"tie_word_embeddings": False}

# Repository: decoder, its config, its vocabulary, the language of the call.
PAIRS = {
    "facebook/s2t-wav2vec2-large-en-de": ("trocr", UNTIED | SINUSOIDAL, fast_bpe, None),
    "facebook/wav2vec2-xls-r-1b-21-to-en": ("mbart", UNTIED, mbart50, None),
    "facebook/wav2vec2-xls-r-1b-en-to-15": ("mbart", UNTIED, mbart50, None),
    "patrickvonplaten/wav2vec2-2-bart-base": ("bart", UNTIED, bart, None),
    "facebook/wav2vec2-xls-r-300m-en-to-15": ("mbart", UNTIED, mbart50, "de"),
}


def make_clip(seed: int) -> bytes:
    """Return a FLAC of a fifth of a second: a tone in noise."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE // 5) / RATE
    waveform = 0.3 * np.sin(2 * np.pi * 300 * (1 + seed) * time)
    waveform += 0.1 * random.standard_normal(len(time))
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format="FLAC")
    return file.getvalue()


def publish_recordings(folder: Path) -> dict[str, Tensor]:
    """Write the data set's file; return each utterance as a model hears it, (1, L)."""
    import pyarrow
    from pyarrow import parquet

    clips = {name: make_clip(seed) for seed, name in enumerate(UTTERANCES)}
    rows = [{"id": name, "audio": {"bytes": clip}} for name, clip in clips.items()]
    (folder / "clean").mkdir(parents=True)
    path = folder / "clean" / "validation-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return {
        name: torch.from_numpy(normalise(load_audio(clip, RATE)))[None]
        for name, clip in clips.items()
    }


def publish_pair(name: str, folder: Path, waveform: Tensor, sentence: str) -> None:
    """Write a repository of PAIRS whose model says `sentence` of a waveform (1, L)."""
    decoder_type, decoder, write_vocabulary, language = PAIRS[name]
    folder.mkdir(parents=True)
    write_vocabulary(folder)
    preprocessor = {"sampling_rate": RATE, "do_normalize": True, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    tokenizer = load_tokenizer(folder)
    ids = {"decoder_start_token_id": START, "eos_token_id": START, "pad_token_id": 1}
    tokens = [START]
    if write_vocabulary is mbart50:
        # The pairs with many languages are told theirs in a call; the others in their files.
        forced = tokenizer.languages["en_XX" if language is None else "de_DE"]
        ids["forced_bos_token_id"] = tokenizer.languages["en_XX"]
        tokens.append(forced)
    tokens += spell(tokenizer, sentence)
    tokens.append(START)

    model = tiny_pair("wav2vec2", decoder_type, ENCODER | LARGE, decoder, **ids)
    teach_sentence(model, waveform, torch.tensor([tokens]))
    save_as_published(name, model, folder)


def spell(tokenizer: Tokenizer, sentence: str) -> list[int]:
    """Encode a sentence without special tokens; raise ValueError if it cannot be written."""
    tokens = [token for token in tokenizer.encode(sentence) if token > 3]
    tokens = [token for token in tokens if token not in tokenizer.languages.values()]
    if tokenizer.decode(tokens).strip() != sentence:
        raise ValueError(f"{sentence!r} is {tokenizer.decode(tokens)!r} in this vocabulary")
    return tokens


@torch.no_grad()
def teach_sentence(model, waveform: Tensor, tokens: Tensor) -> None:
    """Give the head the matrix that finds each of tokens (1, T) after those before it."""
    head = model.decoder.get_output_embeddings()
    seen = []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(waveform.double(), decoder_input_ids=tokens[:, :-1])
    hook.remove()
    states = seen[0][0]  # (T - 1, H)
    wanted = torch.zeros(len(states), head.weight.shape[0]).double()  # (T - 1, V)
    wanted[torch.arange(len(states)), tokens[0, 1:]] = 40.0
    head.weight.copy_((torch.linalg.pinv(states) @ wanted).T)


def save_as_published(name: str, model, folder: Path) -> None:
    """Write the weights as their repository has them: a pickle, for some in the names of 2021."""
    model = model.float()
    if "s2t" in name:
        s2t_folder(model, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"max_length": 100}))
        return
    model.generation_config.max_length = 100
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@torch.no_grad()
def publish_distilhubert(folder: Path, waveform: Tensor) -> dict:
    """Write a tiny HuBERT without a decoder; return transformers' numbers of a waveform (1, L)."""
    from transformers import HubertConfig, HubertModel

    model = spread_(HubertModel(HubertConfig(**ENCODER)).eval())
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    frames = model(waveform).last_hidden_state  # (1, S, H)
    return {"frames": frames[0, :4, :4].tolist(), "sum": frames.sum().item()}
