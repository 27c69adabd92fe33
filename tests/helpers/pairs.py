"""What parity tests share: spread weights, and tiny random pairs of transformers that we load."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

# The configs of tiny encoders and decoders, in the names of transformers.
ENCODER = {
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 19,
    "conv_dim": [6, 8, 10],
    "conv_kernel": [5, 3, 2],
    "conv_stride": [3, 2, 1],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 5,
    "layer_norm_eps": 1e-4,
}
DECODER = {
    "hidden_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 33,
    "vocab_size": 43,
    "max_position_embeddings": 37,
    "layer_norm_eps": 1e-3,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
WAVLM = {"num_buckets": 11, "max_bucket_distance": 20}
DATA2VEC = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
BART = {
    "d_model": 28,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 33,
    "encoder_layers": 2,  # transformers sizes the decoder's cache by it
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 21,
    "vocab_size": 43,
    "max_position_embeddings": 37,
}
GPT2 = {"n_embd": 28, "n_layer": 2, "n_head": 4, "n_inner": 33, "n_positions": 37, "vocab_size": 43}
SINUSOIDAL = {
    "use_learned_position_embeddings": False,
    "layernorm_embedding": False,
    "scale_embedding": True,
}

# The families of encoders: model_type and config.
ENCODERS = {
    "base": ("wav2vec2", ENCODER),
    "xlsr-53": ("wav2vec2", ENCODER | LARGE),
    "xls-r with adapter": (
        "wav2vec2",
        ENCODER | LARGE | {"add_adapter": True, "num_adapter_layers": 2},
    ),
    "xls-r with projection": (
        "wav2vec2",
        ENCODER | LARGE | {"add_adapter": True, "output_hidden_size": 28},
    ),
    "hubert": ("hubert", ENCODER),
    "hubert without a norm": ("hubert", ENCODER | LARGE | {"feat_proj_layer_norm": False}),
    "unispeech": ("unispeech", ENCODER | LARGE),
    "unispeech-sat": ("unispeech-sat", ENCODER),
    "wavlm": ("wavlm", ENCODER | WAVLM),
    "wavlm large with adapter": (
        "wavlm",
        ENCODER | WAVLM | LARGE | {"add_adapter": True, "num_adapter_layers": 2},
    ),
    "data2vec-audio": ("data2vec-audio", ENCODER | DATA2VEC),
}

# The families of decoders: model_type and config.
DECODERS = {
    "bert": ("bert", DECODER),
    "roberta": ("roberta", DECODER),
    "xlm-roberta": ("xlm-roberta", DECODER | {"type_vocab_size": 1}),
    "camembert": ("camembert", DECODER),
    "gpt2": ("gpt2", GPT2 | {"layer_norm_epsilon": 1e-3}),
    "gpt2, untied": ("gpt2", GPT2 | {"tie_word_embeddings": False, "n_inner": None}),
    "bart": ("bart", BART | {"scale_embedding": False}),
    "mbart": ("mbart", BART | {"scale_embedding": True, "activation_function": "relu"}),
    "mbart, untied": ("mbart", BART | {"tie_word_embeddings": False}),
    "trocr": ("trocr", BART),
    "trocr, sinusoidal, untied": (
        "trocr",
        BART | SINUSOIDAL | {"activation_function": "relu", "tie_word_embeddings": False},
    ),
}

# A tiny encoder of ours with an adapter.
ADAPTER = EncoderConfig(
    hidden_size=15,
    num_layers=1,
    num_heads=3,
    intermediate_size=19,
    position_kernel=4,
    position_groups=5,
    conv_channels=(6, 8),
    conv_kernels=(5, 3),
    conv_strides=(3, 2),
    adapter_layers=1,
)

# The ids of tiny pairs.
IDS = {"pad_token_id": 1, "decoder_start_token_id": 2, "eos_token_id": 3}


@torch.no_grad()
def spread_(module: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Draw weights under which a mistake shows, in place; the module is ours or transformers'.

    Matrices and convolutions are 1.5 / sqrt(fan_in) * N(0, 1), biases 0.3 N(0, 1), norm weights
    1 + 0.3 N(0, 1), weight-norm gains uniform from 0.5 to 1.5, embeddings N(0, 1). The seed is 0
    unless a generator is given.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    drawn = set()
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            # A tied weight is drawn once.
            if id(weight) not in drawn:
                drawn.add(id(weight))
                weight.copy_(draw_spread(part, name, weight, generator))
    return module


def draw_spread(part: nn.Module, name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """New values, in float64, of one weight of a module."""
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    if name in ("gain", "original0", "weight_g"):
        return 0.5 + torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    if isinstance(part, (nn.LayerNorm, nn.GroupNorm)) and name == "weight":
        return 1 + 0.3 * noise
    if weight.ndim == 1:
        return 0.3 * noise

    # The length of a direction has no effect.
    if isinstance(part, nn.Embedding) or name in ("direction", "original1", "weight_v"):
        return noise

    # GPT-2's Conv1D is a linear layer with its matrix as (in, out).
    is_transposed = type(part).__name__ == "Conv1D"
    fan_in = weight.shape[0] if is_transposed else weight[0].numel()
    return 1.5 / fan_in**0.5 * noise


def tiny_pair(
    encoder_type: str = "wav2vec2",
    decoder_type: str = "bert",
    encoder: dict | None = None,
    decoder: dict | None = None,
    seed: int = 0,
    **config,
):
    """A tiny SpeechEncoderDecoderModel of transformers: spread, float64, in eval mode, with IDS.

    encoder, decoder, config: changes to the configs of the two parts and of the whole, such as
    tiny_pair(encoder={"do_stable_layer_norm": True}, eos_token_id=5).
    """
    from transformers import AutoConfig, SpeechEncoderDecoderConfig, SpeechEncoderDecoderModel

    encoder_fields = ENCODER | (encoder or {})
    decoder_fields = {"is_decoder": True, "add_cross_attention": True} | IDS | (decoder or {})
    if "bert" in decoder_type:
        decoder_fields = DECODER | decoder_fields
    whole = SpeechEncoderDecoderConfig(
        encoder=AutoConfig.for_model(encoder_type, **encoder_fields).to_dict(),
        decoder=AutoConfig.for_model(decoder_type, **decoder_fields).to_dict(),
        **(IDS | config),
    )

    model = SpeechEncoderDecoderModel(whole).double().eval()
    return spread_(model, torch.Generator().manual_seed(seed))


def ours_from(hf_model, folder: str | Path) -> SpeechEncoderDecoder:
    """The same model as ours, in float64: saved by transformers, loaded by nanos2t."""
    hf_model.save_pretrained(folder)
    return SpeechEncoderDecoder.from_pretrained(folder, dtype=torch.float64)


def pair_of(encoder: str, decoder: str):
    """transformers' pair of one of ENCODERS and one of DECODERS, spread, in float64."""
    encoder_type, encoder_config = ENCODERS[encoder]
    decoder_type, decoder_config = DECODERS[decoder]
    return tiny_pair(encoder_type, decoder_type, encoder_config, decoder_config)


def s2t_folder(theirs, folder: Path) -> None:
    """Save a TrOCR pair as facebook/s2t-wav2vec2-large-en-de is: names, files, config of 2021."""
    config = theirs.config.to_dict()
    config["torch_dtype"] = "float64"
    decoder = config["decoder"]
    decoder["model_type"] = "speech_to_text_2"
    decoder["max_target_positions"] = decoder.pop("max_position_embeddings")
    del decoder["use_learned_position_embeddings"]
    del decoder["layernorm_embedding"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))

    # The names of 2021, and the table of positions, which was stored.
    names_of_2021 = {
        "output_projection": "lm_head",
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    tensors = {"decoder.model.decoder.embed_positions.weights": torch.zeros(39, 28)}
    for name, value in theirs.state_dict().items():
        for new, old in names_of_2021.items():
            name = name.replace(new, old)
        tensors[name] = value
    torch.save(tensors, folder / "pytorch_model.bin")
