"""Small pairs of encoder and decoder whose training steps test_scale.py measures."""

import torch
from scale_activations import Step
from torch.nn import functional as F

from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

ENCODER = {
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_size": 40,
    "conv_channels": (6, 8, 10),
    "conv_kernels": (10, 3, 2),
    "conv_strides": (5, 2, 2),
    "position_kernel": 8,
    "position_groups": 4,
}
SAME_WIDTH = ENCODER | {"hidden_size": 28, "num_heads": 4}
ADAPTER = ENCODER | {"adapter_layers": 2}
WIDE_ADAPTER = ENCODER | {"adapter_layers": 1, "adapter_size": 28}
SAME_WIDTH_ADAPTER = SAME_WIDTH | {"adapter_layers": 3}
DECODER = {
    "hidden_size": 28,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 36,
    "max_positions": 64,
}
PAIRS = {
    "base + bert": (EncoderConfig, ENCODER, DecoderConfig.bert),
    "large, adapter + mbart": (EncoderConfig.large, ADAPTER, DecoderConfig.mbart),
    "large, wide adapter + gpt2": (EncoderConfig.large, WIDE_ADAPTER, DecoderConfig.gpt2),
    "large, same width + bart": (EncoderConfig.large, SAME_WIDTH, DecoderConfig.bart),
    "base, same width + bert": (EncoderConfig, SAME_WIDTH, DecoderConfig.bert),
    "large, adapter, same width + mbart": (
        EncoderConfig.large,
        SAME_WIDTH_ADAPTER,
        DecoderConfig.mbart,
    ),
}


def build_small(name: str, rate: float = 0.0) -> SpeechEncoderDecoder:
    """Build one of PAIRS; rate: of the dropouts."""
    encoder_preset, sizes, decoder_preset = PAIRS[name]
    encoder = encoder_preset(**sizes, training=EncoderTraining(rate, rate, 0.0, rate, 0.0))
    decoder = decoder_preset(50, **DECODER, training=DecoderTraining(rate, 0.0, rate))
    return SpeechEncoderDecoder.from_configs(encoder, decoder)


def compute_loss(model: SpeechEncoderDecoder, step: Step) -> torch.Tensor:
    """Run the forward pass of a training step on random clips and texts."""
    values = torch.randn(step.clips, step.samples)
    tokens = torch.randint(3, model.decoder.config.vocab_size, (step.clips, step.tokens))
    with torch.autocast("cpu", torch.bfloat16, enabled=step.bfloat16):
        logits = model.train()(values, decoder_input_ids=tokens).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum")
