"""The two sides of the tests in tests/peer: transformers' model and ours, with the same methods.

A test of a behaviour is written once and runs on both sides. What has the same name on both, such
as `model.generate`, is called directly; what has not is a method of a side.

Shapes: B utterances, L samples, S frames, T tokens, H hidden_size, V vocab_size, N heads.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from helpers.pairs import DECODERS, ENCODERS, ours_from, tiny_pair
from nanos2t.inspection.observer import observe_attention
from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")

# One encoder with group norm, one with layer norm, one with an adapter; the last needs no bridge.
FAMILIES = {
    "base + bert": ("base", "bert"),
    "xlsr-53 + gpt2": ("xlsr-53", "gpt2"),
    "xls-r with adapter + mbart": ("xls-r with projection", "mbart"),
}

# Nothing is drawn in training: the tests of training compare numbers.
THEIR_RATES = {"layerdrop": 0.0, "apply_spec_augment": False, "final_dropout": 0.0}
THEIR_RATES |= {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
THEIR_RATES |= {"feat_proj_dropout": 0.0}
BERT_RATES = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2_RATES = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
MBART_RATES = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
DECODER_RATES = {"bert": BERT_RATES, "gpt2": GPT2_RATES, "mbart": MBART_RATES}


@cache
def their_model(family: str) -> nn.Module:
    """Build transformers' pair of a family: spread weights, float64, no dropout, in eval mode."""
    encoder, decoder = FAMILIES[family]
    encoder_type, encoder_config = ENCODERS[encoder]
    decoder_type, decoder_config = DECODERS[decoder]
    return tiny_pair(
        encoder_type,
        decoder_type,
        encoder_config | THEIR_RATES,
        decoder_config | DECODER_RATES[decoder],
    )


@cache
def our_model(family: str) -> SpeechEncoderDecoder:
    """Load the same pair with nanos2t."""
    with TemporaryDirectory() as folder:
        return ours_from(their_model(family), folder)


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Two waveforms of equal length, and labels of their texts, one with a hole."""
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.randn(2, 191, generator=generator, dtype=torch.float64)  # (B, L)
    labels = torch.randint(4, 43, (2, 6), generator=generator)  # (B, T)
    labels[1, 4:] = -100
    return {"input_values": waveforms.to(dtype), "labels": labels}


def tokens() -> Tensor:
    """Decoder input (B, T) for `batch`."""
    return torch.randint(4, 43, (2, 7), generator=torch.Generator().manual_seed(1))


class Theirs:
    """transformers' SpeechEncoderDecoderModel."""

    name = "transformers"
    model_class = hf.SpeechEncoderDecoderModel

    def share(self, family: str) -> nn.Module:
        """Return the model of a family that all tests share: not to be changed."""
        return their_model(family)

    def copy(self, family: str, folder: Path) -> nn.Module:
        """Return a model of a family that the test may change."""
        self.share(family).save_pretrained(folder)
        return self.load(folder)

    def load(self, folder: Path, dtype: torch.dtype = torch.float64) -> nn.Module:
        return self.model_class.from_pretrained(folder, dtype=dtype).eval()

    def join(self, encoder: Path, decoder: Path, **options) -> nn.Module:
        """Join two halves, in float64."""
        # transformers takes the dtype of each half by its prefix.
        dtypes = {"encoder_dtype": torch.float64, "decoder_dtype": torch.float64}
        joined = self.model_class.from_encoder_decoder_pretrained(
            encoder, decoder, **dtypes, **options
        )
        return joined.double().eval()

    def renew(self, model: nn.Module) -> nn.Module:
        """Build a model with new weights from the configs of another."""
        return self.model_class(model.config).double().eval()

    def memory(self, output: object) -> Tensor:
        """Return the frames (B, S, H) that the decoder attends to."""
        return output.encoder_last_hidden_state

    def encode(self, model: nn.Module, waveforms: Tensor) -> Tensor:
        """Encode waveforms (B, L) to memory (B, S, H)."""
        start = tokens()[:1, :1].repeat(len(waveforms), 1)  # (B, 1)
        return self.memory(model(waveforms, decoder_input_ids=start))

    def encode_alone(self, model: nn.Module, waveforms: Tensor) -> Tensor:
        """Encode waveforms (B, L) to what the encoder returns, before the bridge."""
        return model.encoder(waveforms).last_hidden_state

    def score(self, model: nn.Module, memory: Tensor, decoder_input: Tensor) -> Tensor:
        """Return the logits (B, T, V) of decoder input (B, T) that attends to memory (B, S, H)."""
        return model.decoder(input_ids=decoder_input, encoder_hidden_states=memory).logits

    def attention(self, model: nn.Module, **arguments) -> dict[str, list[Tensor]]:
        """Return the weights (B, N, T, S) of each layer: encoder, decoder, across."""
        output = model(**arguments, output_attentions=True)
        return {
            "encoder": list(output.encoder_attentions),
            "decoder": list(output.decoder_attentions),
            "across": list(output.cross_attentions),
        }


class Ours:
    """nanos2t's SpeechEncoderDecoder."""

    name = "nanos2t"
    model_class = SpeechEncoderDecoder

    def share(self, family: str) -> SpeechEncoderDecoder:
        return our_model(family)

    def copy(self, family: str, folder: Path) -> SpeechEncoderDecoder:
        self.share(family).save_pretrained(folder)
        return self.load(folder)

    def load(self, folder: Path, dtype: torch.dtype = torch.float64) -> SpeechEncoderDecoder:
        return self.model_class.from_pretrained(folder, dtype=dtype)

    def join(self, encoder: Path, decoder: Path, **options) -> SpeechEncoderDecoder:
        return self.model_class.from_encoder_decoder_pretrained(
            encoder, decoder, dtype=torch.float64, **options
        )

    def renew(self, model: SpeechEncoderDecoder) -> SpeechEncoderDecoder:
        configs = (model.encoder.config, model.decoder.config, model.generation)
        return self.model_class.from_configs(*configs).double().eval()

    def memory(self, output: object) -> Tensor:
        return output.memory

    def encode(self, model: SpeechEncoderDecoder, waveforms: Tensor) -> Tensor:
        return model.encode(waveforms)[0]

    def encode_alone(self, model: SpeechEncoderDecoder, waveforms: Tensor) -> Tensor:
        return model.encoder(waveforms)[0]

    def score(self, model: SpeechEncoderDecoder, memory: Tensor, decoder_input: Tensor) -> Tensor:
        return model.decoder(decoder_input, model.decoder.project_memory(memory))

    def attention(self, model: SpeechEncoderDecoder, **arguments) -> dict[str, list[Tensor]]:
        groups = {
            "encoder": [block.self_attn for block in model.encoder.blocks],
            "decoder": [block.self_attn for block in model.decoder.blocks],
            "across": [block.cross_attn for block in model.decoder.blocks],
        }
        weights = {}
        for group, modules in groups.items():
            with observe_attention(modules) as observed:
                model(**arguments)
            weights[group] = observed
        return weights


SIDES = {side.name: side for side in (Theirs(), Ours())}

both_sides = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
every_family = pytest.mark.parametrize("family", FAMILIES)
