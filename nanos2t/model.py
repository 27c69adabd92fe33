"""SpeechEncoderDecoder: encoder, bridge and causal decoder, from a waveform to scores and loss.

The model of transformers' SpeechEncoderDecoderModel (models/speech_encoder_decoder).
Shapes: B batch, L samples, S encoder frames, T target tokens, H hidden_size of the decoder,
V vocab_size, K targets of an utterance.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import checkpoint, halves, inputs, pretrained, remap, remap_config
from nanos2t.decoder import Decoder, DecoderConfig
from nanos2t.files import first_line
from nanos2t.generate import Generated, decode_memory, generate
from nanos2t.generation_config import GenerationConfig
from nanos2t.initialize import initialize_weights
from nanos2t.inputs import IGNORED
from nanos2t.pretrained import ModelConfigs, SkipInit
from nanos2t.search_trace import Candidate
from nanos2t.wav2vec2 import Encoder, EncoderConfig, mask_padding


class Output(NamedTuple):
    """What the model returns. `loss` and `logits` are None where there were no tokens."""

    loss: Tensor | None  # ()
    logits: Tensor | None  # (B * K, T, V)
    memory: Tensor  # (B, S, H)
    frame_lengths: Tensor  # (B,), real frames of each item


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """Make the decoder input (B, T) of labels (B, T): `start`, then all labels but the last.

    IGNORED labels become `pad`.
    """
    first = torch.full_like(labels[:, :1], start)  # (B, 1)
    shifted = torch.cat([first, labels[:, :-1]], dim=1)  # (B, T)
    return shifted.masked_fill(shifted == IGNORED, pad)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Average -log p(label) over all labels (B, T) that are not IGNORED. logits: (B, T, V).

    The loss is 0, with zero gradient, if all of them are IGNORED.
    """
    flat_logits = logits.flatten(0, 1)  # (B * T, V)
    flat_labels = labels.flatten()  # (B * T,)
    losses = F.cross_entropy(flat_logits, flat_labels, ignore_index=IGNORED, reduction="none")

    # The sum of many labels would be infinite in float16, whose largest number is 65504.
    total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
    count = (labels != IGNORED).sum()
    return (total / count.clamp(min=1)).to(losses.dtype)


class SpeechEncoderDecoder(nn.Module):
    """A speech encoder and a text decoder that attends to the encoder's frames."""

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        generation: GenerationConfig | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(encoder)
        # The bridge is only there where the widths differ.
        if encoder.output_size == decoder.hidden_size:
            self.bridge = nn.Identity()
        else:
            self.bridge = nn.Linear(encoder.output_size, decoder.hidden_size)
        self.decoder = Decoder(decoder)

        # How `generate` searches, and the ids of start, end and padding.
        self.generation = generation or GenerationConfig(pad_token_id=decoder.pad_token_id)
        self.families: tuple[str, ...] = ()  # model_type of encoder and decoder, if loaded

    @classmethod
    def from_configs(
        cls,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        generation: GenerationConfig | None = None,
    ) -> "SpeechEncoderDecoder":
        """Build a new model with random weights, distributed as in transformers."""
        model = cls(encoder, decoder, generation)
        initialize_weights(model)
        return model

    @classmethod
    def build_empty(cls, configs: ModelConfigs) -> "SpeechEncoderDecoder":
        """Build a model on the meta device: shapes without weights.

        Raises ValueError for sizes that do not make a model.
        """
        # torch raises errors of many kinds for sizes that do not fit together.
        try:
            pretrained.check_sizes(configs)
            with torch.device("meta"), SkipInit():
                model = cls(configs.encoder, configs.decoder, configs.generation)
        except (
            ArithmeticError,
            AssertionError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(
                f"{configs.source}: expected sizes of which a model can be built "
                f"({first_line(error)})"
            ) from None
        model.families = configs.families
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = torch.float32,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "SpeechEncoderDecoder":
        """Load a model from a folder or hub repository in transformers' layout, in eval mode.

        dtype: of the weights; None is that of the file. Weights that are optional there and missing
        are initialised, and listed on the logger "nanos2t". Raises ValueError, naming the file and
        the tensor or key, for what is missing, broken or not implemented.
        """
        if dtype is not None:
            pretrained.check_dtype(dtype)
        pretrained.check_device(device)
        folder = checkpoint.find_folder(name_or_path, revision, local_files_only)

        # The configs give an empty model: its names and shapes say what to look for.
        configs = pretrained.read_configs(folder)
        model = cls.build_empty(configs)

        # The tensors stay memory-mapped until they are moved or converted.
        path, state = pretrained.read_weights(folder, model.families, model.state_dict())
        pretrained.fill_model(model, state, str(path))
        return model.to(device, dtype).eval()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | Path,
        decoder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        decoder_start_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        **options,
    ) -> "SpeechEncoderDecoder":
        """Join a speech encoder and a text decoder, each from a folder or hub repository.

        Each may be a bare model, one with any head, or half of a pair. What neither has
        (cross-attention, the bridge, an adapter, the head of a decoder without one) is initialised,
        and listed on the logger "nanos2t". Ids that are passed override those of the decoder's
        files.

        options: fields of the halves' config.json in transformers' names, after "encoder_" or
        "decoder_", such as encoder_add_adapter=True or decoder_num_hidden_layers=6; and options of
        generation, such as num_beams=5.

        Raises ValueError as `from_pretrained` does, and for an unknown option.
        """
        pretrained.check_dtype(dtype)
        pretrained.check_device(device)
        encoder_fields, decoder_fields, generation = halves.split_options(options)
        encoder_half = halves.read_half(checkpoint.find_folder(encoder), "encoder")
        decoder_half = halves.read_half(checkpoint.find_folder(decoder), "decoder")
        encoder_half = halves.change_half(encoder_half, encoder_fields)
        decoder_half = halves.change_half(decoder_half, decoder_fields)

        # The decoder's files say how to build it, and give the ids that are not passed.
        ids = {
            "decoder_start_token_id": decoder_start_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
        }
        for name, value in ids.items():
            if value is not None:
                generation[name] = value
        configs = pretrained.join_configs(encoder_half, decoder_half, generation)
        model = cls.build_empty(configs)

        # The bridge is in neither file, cross-attention in few.
        state = halves.read_half_weights(encoder_half, model.state_dict())
        state |= halves.read_half_weights(decoder_half, model.state_dict())
        pretrained.fill_model(model, state, f"{encoder_half.folder}, {decoder_half.folder}")
        return model.to(device, dtype).eval()

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str = "5GB") -> None:
        """Write a folder that transformers loads with nothing missing and nothing unexpected.

        It has config.json, generation_config.json and model.safetensors, or its shards. All are
        written elsewhere first, then moved: no file is ever half there. Raises ValueError if the
        folder cannot be written, or if no model_type of transformers can express our configs.
        """
        self.check_names()

        # What transformers calls our configs: families, keys and values of theirs.
        encoder = pretrained.describe_part(self.encoder.config, "encoder", self.families)
        decoder = pretrained.describe_part(self.decoder.config, "decoder", self.families)
        generation = pretrained.describe_generation(self.generation)
        config = pretrained.describe_model(encoder, decoder, generation, dtype=self.dtype)
        pretrained.warn_about_bridge(self.encoder.config, self.decoder.config)

        # A tied output matrix is written once, as the embedding.
        rows = pretrained.table_rows((encoder["model_type"], decoder["model_type"]))
        is_untied = not self.decoder.config.tied
        tensors = remap.export_state(rows, self.state_dict(), aliases=is_untied)

        checkpoint.write_checkpoint(
            Path(folder),
            tensors,
            {"config.json": config, "generation_config.json": generation},
            max_shard_size,
        )

    def check_names(self) -> None:
        """Raise ValueError for modules in the model that checkpoints have no place for."""
        configs = ModelConfigs(self.encoder.config, self.decoder.config, self.generation)
        expected = self.build_empty(configs).state_dict().keys()
        strange = [name for name in self.state_dict() if name not in expected]
        if strange:
            raise ValueError(
                f"the model has {remap_config.shorten(strange)}, expected only tensors of a "
                "SpeechEncoderDecoder: merge LoRA layers first (peft: merge_and_unload)"
            )

    def encode(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode waveforms (B, L) to memory (B, S, H).

        attention_mask: (B, L), 1 for real samples, 0 for padding on the right.
        mask_time_indices: see `Encoder.forward`.
        Also returns frame_lengths (B,), the number of real frames, or None if all are real.
        Raises ValueError for an argument of another type or shape.
        """
        inputs.check_waveforms(input_values)
        if mask_time_indices is not None:
            inputs.check_frame_mask(mask_time_indices, input_values, self.encoder.config)

        # Without padding no lengths are needed.
        sample_lengths = None
        if attention_mask is not None:
            sample_lengths = count_real_samples(input_values, attention_mask)  # (B,) or None
        inputs.check_adapter_input(input_values, sample_lengths, self.encoder.config)
        frames, frame_lengths = self.encoder(
            input_values, sample_lengths, mask_time_indices
        )  # (B, S, encoder width), (B,)
        return self.bridge(frames), frame_lengths  # (B, S, H), (B,)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> Output:
        """Encode waveforms (B, L) and score target tokens (B * K, T), K for each utterance.

        labels: (B * K, T), IGNORED where the loss is not computed; they give the loss and, shifted
        right, the decoder input. decoder_input_ids: (B * K, T), used instead of shifted labels.
        Without both, only memory is computed. mask_time_indices: see `Encoder.forward`.
        Raises ValueError for an argument of another type or shape and, on the CPU, for a token
        that the vocabulary lacks.
        """
        # Wrong arguments are found before the encoder's long work.
        inputs.check_waveforms(input_values)
        num_utterances = len(input_values)
        vocab_size = self.decoder.config.vocab_size
        if labels is not None:
            inputs.check_labels(labels, num_utterances, vocab_size)
        if decoder_input_ids is not None:
            inputs.check_decoder_input(decoder_input_ids, labels, num_utterances, vocab_size)

        memory, frame_lengths = self.encode(
            input_values, attention_mask, mask_time_indices
        )  # (B, S, H), (B,)

        # Teacher forcing: position t sees the labels before t. The start is that of a search; where
        # the files differ, transformers takes it from config.json, and only in training.
        if decoder_input_ids is None and labels is not None:
            start = self.generation.require_id("decoder_start_token_id")
            pad = self.generation.require_id("pad_token_id")
            decoder_input_ids = shift_right(labels, start, pad)  # (B * K, T)

        logits = None
        if decoder_input_ids is not None:
            mask = mask_padding(frame_lengths, memory.shape[1])  # (B, 1, 1, S)
            cross_keys_values = self.decoder.project_memory(memory)
            logits = self.decoder(decoder_input_ids, cross_keys_values, mask)  # (B * K, T, V)

        loss = None
        if labels is not None:
            loss = cross_entropy(logits, labels)  # ()

        # None stands for "all frames are real" inside; callers get the numbers.
        if frame_lengths is None:
            batch_size, num_frames = memory.shape[:2]
            frame_lengths = torch.full((batch_size,), num_frames, device=memory.device)
        return Output(loss, logits, memory, frame_lengths)

    def generate(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        trace: list[Candidate] | None = None,
        return_dict_in_generate: bool = False,
        **options,
    ) -> Tensor | Generated:
        """Generate tokens (B * num_return_sequences, T), the start token first.

        See `nanos2t.generate.generate`. The options are the fields of GenerationConfig.
        """
        return generate(
            self,
            input_values,
            attention_mask,
            trace=trace,
            return_dict_in_generate=return_dict_in_generate,
            **options,
        )

    def generate_from_memory(
        self,
        memory: Tensor,
        frame_lengths: Tensor | None = None,
        *,
        trace: list[Candidate] | None = None,
        return_dict_in_generate: bool = False,
        **options,
    ) -> Tensor | Generated:
        """Generate tokens as `generate` does, from what `encode` returned.

        So one encoding serves several searches. memory: (B, S, H). frame_lengths: (B,), how many
        frames of each item are real, or None if all are. All else is as in `generate`.
        """
        inputs.check_memory(memory, frame_lengths, self.decoder.config.hidden_size)
        result = decode_memory(self, memory, frame_lengths, options, trace)
        if return_dict_in_generate:
            return result
        return result.sequences

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, bool] | None = None
    ) -> None:
        """Save memory in training: of each block, keep only the input for the backward pass.

        The rest is computed again there, which takes a third of the time more. Gradients are the
        same. gradient_checkpointing_kwargs: what transformers' Trainer passes, None or
        {"use_reentrant": False}. Raises ValueError for anything else.
        """
        if gradient_checkpointing_kwargs not in (None, {}, {"use_reentrant": False}):
            raise ValueError(
                f"gradient_checkpointing_kwargs is {gradient_checkpointing_kwargs}, expected "
                "None or {'use_reentrant': False}"
            )
        self.encoder.recomputes_blocks = True
        self.decoder.recomputes_blocks = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all that the backward pass needs, as at first."""
        self.encoder.recomputes_blocks = False
        self.decoder.recomputes_blocks = False

    @property
    def device(self) -> torch.device:
        """The device of the weights, where inputs must be, too."""
        return self.encoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and, except under autocast, of the waveforms."""
        return self.encoder.norm.weight.dtype

    def freeze_feature_encoder(self) -> None:
        """Exclude the convolutions from training (wav2vec 2.0, section 4.2)."""
        self.encoder.feature_encoder.requires_grad_(False)


def count_real_samples(input_values: Tensor, attention_mask: Tensor) -> Tensor | None:
    """Count the real samples (B,) of each item, or return None if there is no padding.

    Raises ValueError if the shapes differ, or if padding is not on the right.
    """
    inputs.check_attention_mask(attention_mask, input_values)
    # Of a mask of float16 or bfloat16 the sum would be rounded: count what is not 0.
    sample_lengths = (attention_mask != 0).sum(1)  # (B,)
    # A graph of torch.compile or torch.export must not depend on what is in the mask.
    if torch.compiler.is_compiling():
        return sample_lengths
    if (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
        raise ValueError("attention_mask has a 1 after a 0, expected padding on the right only")
    if (sample_lengths == input_values.shape[1]).all():
        return None
    return sample_lengths
