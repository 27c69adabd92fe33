"""SpeechEncoderDecoder: waveform -> encoder -> bridge -> causal decoder -> logits over tokens, and the loss.
The model of transformers' SpeechEncoderDecoderModel (models/speech_encoder_decoder).
Shapes: B batch, L samples, S encoder frames, T target tokens, H hidden_size of the decoder, V vocab_size."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.decoder import Decoder, DecoderConfig
from nanos2t.generate import generate
from nanos2t.generation_config import GenerationConfig
from nanos2t.initialize import initialize_weights
from nanos2t.wav2vec2 import Encoder, EncoderConfig, valid_frames

IGNORED = -100  # a label that no loss looks at


@dataclass
class Output:
    loss: Tensor | None  # ()
    logits: Tensor | None  # (B, T, V)
    memory: Tensor  # (B, S, H)
    frames: Tensor  # (B,), how many are real


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """Labels (B, T) -> decoder input (B, T): start token, then all labels but the last; IGNORED is pad."""
    shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, pad)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p(label) over labels that are not IGNORED; 0, with zero gradient, if all of them are."""
    total = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


class SpeechEncoderDecoder(nn.Module):
    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        generation: GenerationConfig | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(encoder)
        sizes = encoder.output_size, decoder.hidden_size
        self.bridge = nn.Identity() if sizes[0] == sizes[1] else nn.Linear(*sizes)
        self.decoder = Decoder(decoder)
        self.families = ()  # model_types, once loaded
        self.generation = generation or GenerationConfig(pad_token_id=decoder.pad_token_id)

    @staticmethod
    def from_pretrained(name_or_path, **options) -> "SpeechEncoderDecoder":
        """The model in a folder or hub id in transformers' layout: see nanos2t.pretrained.from_pretrained."""
        from nanos2t import pretrained

        return pretrained.from_pretrained(name_or_path, **options)

    @staticmethod
    def from_encoder_decoder_pretrained(encoder, decoder, **options) -> "SpeechEncoderDecoder":
        """A model of two halves: see nanos2t.pretrained.from_encoder_decoder_pretrained."""
        from nanos2t import pretrained

        return pretrained.from_encoder_decoder_pretrained(encoder, decoder, **options)

    def save_pretrained(self, folder) -> None:
        """Write a folder that transformers loads: see nanos2t.pretrained.save_pretrained."""
        from nanos2t import pretrained

        pretrained.save_pretrained(self, folder)

    @classmethod
    def from_configs(
        cls,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        generation: GenerationConfig | None = None,
    ) -> "SpeechEncoderDecoder":
        """A new model with random weights, drawn by the laws of transformers."""
        model = cls(encoder, decoder, generation)
        initialize_weights(model)
        return model

    def encode(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Waveforms (B, L), 1 where they are real (B, L) -> memory (B, S, H), real frames (B,) or None."""
        samples = (
            None if attention_mask is None else count_real_samples(input_values, attention_mask)
        )
        memory, frames = self.encoder(
            input_values, samples, mask_time_indices
        )  # (B, S, encoder width), (B,)
        return self.bridge(memory), frames  # (B, S, H)

    def memory_mask(self, memory: Tensor, frames: Tensor | None) -> Tensor | None:
        """(B, S, H), (B,) -> (B, 1, 1, S) bool: the frames that a decoder may look at; None: all."""
        return None if frames is None else valid_frames(frames, memory.shape[1])[:, None, None]

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> Output:
        """Waveforms (B, L) and labels or decoder input (B * K, T): K targets for each utterance, usually 1.
        Without decoder input the labels are shifted right to make it. `mask_time_indices`: see Encoder.forward."""
        memory, frames = self.encode(
            input_values, attention_mask, mask_time_indices
        )  # (B, S, H), (B,)
        logits = None
        if decoder_input_ids is None and labels is not None:
            start = self.generation.require_id("decoder_start_token_id")
            decoder_input_ids = shift_right(
                labels, start, self.generation.require_id("pad_token_id")
            )
        if decoder_input_ids is not None:
            mask = self.memory_mask(memory, frames)  # (B, 1, 1, S)
            logits = self.decoder(
                decoder_input_ids, self.decoder.project_memory(memory), mask
            )  # (B * K, T, V)
        loss = None if labels is None else cross_entropy(logits, labels)
        every = memory.new_full(memory.shape[:1], memory.shape[1], dtype=torch.long)  # (B,)
        return Output(loss, logits, memory, every if frames is None else frames)

    def generate(self, input_values: Tensor, attention_mask: Tensor | None = None, **options):
        """Tokens (B * num_return_sequences, T), the start token first; see nanos2t.generate.generate."""
        return generate(self, input_values, attention_mask, **options)

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions as they are while the rest is trained (wav2vec 2.0, section 4.2)."""
        self.encoder.feature_encoder.requires_grad_(False)


def count_real_samples(input_values: Tensor, attention_mask: Tensor) -> Tensor | None:
    """Real samples of each item (B,), None if all are; ValueError unless the zeros stand at the end."""
    if attention_mask.shape != input_values.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, "
            f"expected that of input_values {tuple(input_values.shape)}"
        )
    if (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
        raise ValueError("attention_mask has a 1 behind a 0: pad on the right")
    samples = attention_mask.sum(1)  # (B,)
    return None if (samples == input_values.shape[1]).all() else samples
