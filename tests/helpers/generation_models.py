"""Models to generate with: a new one of ours, and pairs of transformers' and ours that agree."""

from functools import cache
from math import log
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from helpers.encoder_parity import LARGE, waves
from helpers.pairs import DECODERS, IDS, ours_from, tiny_pair
from helpers.search_scripts import CONFIG
from nanos2t.decoder import DecoderConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, valid_frames

PAIRS = {  # encoder, vocabulary, decoder layers, decoder; ours and transformers'
    "group norm, 6 words": ("wav2vec2", {}, 6, 1, "bert"),
    "layer norm, 6 words": ("wav2vec2", LARGE, 6, 2, "bert"),
    "group norm, 23 words": ("hubert", {}, 23, 2, "bert"),
    "layer norm, 23 words": ("wav2vec2", LARGE, 23, 1, "bert"),
    "layer norm, 57 words": ("hubert", LARGE, 57, 1, "bert"),
    "layer norm, 23 words, gpt2": ("wav2vec2", LARGE, 23, 2, "gpt2"),
    "group norm, 19 words, bart": ("wav2vec2", {}, 19, 2, "bart"),
    "layer norm, 7 words, mbart": ("wav2vec2", LARGE, 7, 2, "mbart"),
    "layer norm, 22 words, trocr": ("hubert", LARGE, 22, 1, "trocr"),
}


LAYERS = {
    "bert": "num_hidden_layers",
    "gpt2": "n_layer",
    **dict.fromkeys(("bart", "mbart", "trocr"), "decoder_layers"),
}


LAST_NORM = {
    "gpt2": lambda text: text.transformer.ln_f,
    "bart": lambda text: text.model.decoder.layers[-1].final_layer_norm,
    "mbart": lambda text: text.model.decoder.layer_norm,
    "trocr": lambda text: text.model.decoder.layers[-1].final_layer_norm,
}


LENGTHS = 130, 58, 97


BATCHED = [pair for pair in PAIRS if pair.startswith("layer norm")]  # HF's batches are HF's items


@cache
@torch.no_grad()
def paired_models(pair: str, seed: int = 0) -> tuple[nn.Module, SpeechEncoderDecoder]:
    """Return transformers' model and ours, with the same spread weights.

    With spread weights alone one token would win everywhere. A bias of the head takes that away, so
    that the likeliest token differs from place to place, and raises EOS, so that texts end.
    """
    family, encoder, V, layers, decoder_type = PAIRS[pair]
    text = DECODERS[decoder_type][1] | {"vocab_size": V, LAYERS[decoder_type]: layers}
    theirs = tiny_pair(family, decoder_type, {"num_hidden_layers": 1, **encoder}, text, seed)
    rng, head = torch.Generator().manual_seed(seed), getattr(theirs.decoder, "cls", None)
    norm = head.predictions.transform.LayerNorm if head else LAST_NORM[decoder_type](theirs.decoder)
    norm.weight.mul_(0.4)
    waveforms = torch.randn(40, 100, generator=rng, dtype=torch.float64)
    logits = theirs(waveforms, decoder_input_ids=torch.randint(V, (40, 9), generator=rng)).logits
    bias = -logits.mean((0, 1))
    bias[IDS["eos_token_id"]] += 0.4 + log(V) / 3
    if head:
        head.predictions.decoder.bias.add_(bias)
    else:
        # These heads have no bias. The norm before them has one, in as many dimensions.
        norm.bias.add_(torch.linalg.pinv(theirs.get_output_embeddings().weight) @ bias)
    with TemporaryDirectory() as folder:
        return theirs, ours_from(theirs, folder)


def make_batch() -> tuple[Tensor, Tensor]:
    waveforms, samples = waves(*LENGTHS)
    return waveforms, valid_frames(samples, waveforms.shape[1]).long()


def tiny_model(max_positions: int = 30) -> SpeechEncoderDecoder:
    """Return a new model of ours with nine tokens."""
    encoder = EncoderConfig(
        hidden_size=10,
        num_layers=1,
        num_heads=2,
        intermediate_size=11,
        conv_channels=(6, 7),
        conv_kernels=(5, 3),
        conv_strides=(3, 2),
        position_kernel=4,
        position_groups=5,
    )
    text = DecoderConfig.bert(
        9,
        hidden_size=14,
        num_layers=1,
        num_heads=2,
        intermediate_size=9,
        max_positions=max_positions,
    )
    return SpeechEncoderDecoder.from_configs(encoder, text, CONFIG).eval()
