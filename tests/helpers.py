"""What the parity tests share: spread weights, and a tiny random pair of transformers' that we load."""

from pathlib import Path

import torch
from torch import nn

from nanos2t.model import SpeechEncoderDecoder

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
IDS = {"pad_token_id": 1, "decoder_start_token_id": 2, "eos_token_id": 3}


@torch.no_grad()
def spread_(module: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Weights under which a mistake shows (design.md, section 7), in place; our modules or transformers'.

    Matrices and convolutions 1.5 / sqrt(fan_in) * N(0, 1), biases 0.3 N(0, 1), norm weights 1 + 0.3 N(0, 1),
    weight-norm gains uniform in 0.5 .. 1.5, embeddings N(0, 1). Seed 0 unless a generator is given.
    """
    generator = generator or torch.Generator().manual_seed(0)
    drawn = set()
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if id(weight) in drawn:  # tied to one that is done
                continue
            drawn.add(id(weight))
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if name in ("gain", "original0", "weight_g"):
                noise = 0.5 + torch.rand(weight.shape, generator=generator, dtype=torch.float64)
            elif name in ("direction", "original1", "weight_v"):
                pass  # its length has no effect
            elif isinstance(part, (nn.LayerNorm, nn.GroupNorm)) and name == "weight":
                noise = 1 + 0.3 * noise
            elif weight.ndim == 1:
                noise = 0.3 * noise
            elif not isinstance(part, nn.Embedding):
                fan_in = weight.shape[0] if type(part).__name__ == "Conv1D" else weight[0].numel()
                noise = 1.5 / fan_in**0.5 * noise
            weight.copy_(noise)
    return module


def tiny_pair(
    encoder_type: str = "wav2vec2",
    decoder_type: str = "bert",
    encoder: dict | None = None,
    decoder: dict | None = None,
    seed: int = 0,
    **config,
):
    """A tiny spread float64 SpeechEncoderDecoderModel of transformers, in eval mode, with ids as in IDS.

    `encoder`, `decoder` and `config` change fields of the two parts' configs and of the whole's (HF's names):
    tiny_pair(encoder={"do_stable_layer_norm": True}, decoder={"tie_word_embeddings": False}, eos_token_id=5).
    """
    from transformers import AutoConfig, SpeechEncoderDecoderConfig, SpeechEncoderDecoderModel

    encoder = AutoConfig.for_model(encoder_type, **(ENCODER | (encoder or {})))
    decoder = DECODER | {"is_decoder": True, "add_cross_attention": True} | IDS | (decoder or {})
    decoder = AutoConfig.for_model(decoder_type, **decoder)
    whole = SpeechEncoderDecoderConfig(encoder=encoder.to_dict(), decoder=decoder.to_dict(), **(IDS | config))
    model = SpeechEncoderDecoderModel(whole).double().eval()
    spread_(model, torch.Generator().manual_seed(seed))
    if hasattr(model.decoder, "cls"):
        predictions = model.decoder.cls.predictions  # untied: the first is unused
        predictions.bias.data.copy_(predictions.decoder.bias.data)
    return model


def ours_from(hf_model, folder: str | Path) -> SpeechEncoderDecoder:
    """The same model as ours, in float64: saved by transformers, loaded by nanos2t."""
    from nanos2t.pretrained import from_pretrained

    hf_model.save_pretrained(folder)
    return from_pretrained(folder, dtype=torch.float64)
