"""Checks of what callers pass to the model: one clear error instead of numbers that mean nothing.

torch would broadcast or reinterpret many wrong shapes in silence. Shapes and types are checked
everywhere. Values are checked on the CPU only: on a GPU, looking at them would make the CPU wait
for it in every step of training.

Shapes: B utterances, L samples, S frames, K targets of an utterance, T tokens.
"""

import torch
from torch import Tensor

from nanos2t.wav2vec2 import EncoderConfig

IGNORED = -100  # a label at a position that the loss leaves out


def check_tensor(name: str, value: Tensor, axes: str) -> None:
    """Raise ValueError unless `value` is a tensor with two axes, which `axes` names."""
    # NumPy arrays have a shape, too, and would get far before an error.
    if not isinstance(value, Tensor):
        kind = type(value)
        remedy = ""
        if kind.__module__ == "numpy":
            remedy = ": use torch.from_numpy"
        raise ValueError(
            f"{name} is of type {kind.__module__}.{kind.__qualname__}, "
            f"expected a torch.Tensor {axes}{remedy}"
        )
    # Forgetting the first axis is the most usual mistake.
    if value.dim() != 2:
        remedy = ""
        if value.dim() == 1:
            remedy = f": add the first axis with {name}[None]"
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {axes}{remedy}")


def check_waveforms(input_values: Tensor) -> None:
    """Raise ValueError unless input_values are floating point waveforms (B, L), B at least 1."""
    check_tensor("input_values", input_values, "(utterances, samples)")
    if len(input_values) == 0:
        raise ValueError("input_values: expected at least one waveform, found none")
    # Integers of an audio file have another scale than the waveforms that models are trained on.
    if not input_values.is_floating_point():
        raise ValueError(
            f"input_values are {input_values.dtype}, expected floating point samples, "
            "such as torch.float32 from -1 to 1"
        )


def check_attention_mask(attention_mask: Tensor, input_values: Tensor) -> None:
    """Raise ValueError unless attention_mask (B, L) has the shape of input_values (B, L).

    On the CPU, its values must be 0 and 1.
    """
    check_tensor("attention_mask", attention_mask, "(utterances, samples)")
    if attention_mask.shape != input_values.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, "
            f"expected that of input_values {tuple(input_values.shape)}"
        )
    # Real samples are counted by a sum, which other values would falsify.
    if can_read_values(attention_mask) and attention_mask.dtype != torch.bool:
        is_binary = (attention_mask == 0) | (attention_mask == 1)  # (B, L)
        if not is_binary.all():
            raise ValueError(
                f"attention_mask has the value {attention_mask[~is_binary][0].item()}, "
                "expected 1 for real samples, 0 for padding"
            )


def check_frame_mask(
    mask_time_indices: Tensor, input_values: Tensor, encoder: EncoderConfig
) -> None:
    """Raise ValueError unless mask_time_indices (B, S) marks frames of input_values (B, L)."""
    name = "mask_time_indices"
    check_tensor(name, mask_time_indices, "(utterances, frames)")
    if mask_time_indices.dtype != torch.bool:
        raise ValueError(f"{name} are {mask_time_indices.dtype}, expected torch.bool")
    if encoder.training.mask_time_prob == 0:
        raise ValueError(f"{name}: expected None, as the encoder has mask_time_prob 0")

    # The number of frames: as many as the convolutions make, and at least one.
    B, L = input_values.shape
    num_frames = max(L, encoder.min_samples)
    for kernel, stride in zip(encoder.conv_kernels, encoder.conv_strides):
        num_frames = (num_frames - kernel) // stride + 1
    if mask_time_indices.shape != (B, num_frames):
        raise ValueError(
            f"{name} has shape {tuple(mask_time_indices.shape)}, "
            f"expected {(B, num_frames)}: utterances and frames"
        )


def check_adapter_input(
    input_values: Tensor, sample_lengths: Tensor | None, encoder: EncoderConfig
) -> None:
    """Raise ValueError if the adapter would leave no frame of one of the waveforms (B, L).

    sample_lengths: (B,) or None, as `Encoder.forward` gets them. They are read on the CPU only.
    """
    # From one frame after the adapter, padded by 1 on each side, to the frames before it.
    num_frames = 1
    for _ in range(encoder.adapter_layers):
        num_frames = (num_frames - 1) * encoder.adapter_stride + encoder.adapter_kernel - 2
        num_frames = max(1, num_frames)

    # One frame can be made of any waveform: a shorter one is filled up with zeros.
    if num_frames == 1:
        return
    shortest = input_values.shape[1]
    if sample_lengths is not None and can_read_values(sample_lengths):
        shortest = int(sample_lengths.min())
    min_samples = encoder.count_samples(num_frames)
    if shortest < min_samples:
        raise ValueError(
            f"input_values has a waveform of {shortest} samples, expected at least {min_samples}: "
            f"an adapter_kernel of {encoder.adapter_kernel} makes no frame of fewer"
        )


def check_labels(labels: Tensor, num_utterances: int, vocab_size: int) -> None:
    """Raise ValueError unless labels (B * K, T) are token ids or IGNORED."""
    check_tensor("labels", labels, "(rows, tokens)")
    # The loss of torch takes no other type.
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}, expected token ids as torch.int64")
    check_rows("labels", labels, num_utterances)
    if can_read_values(labels):
        check_ids("labels", labels, vocab_size, allowed=IGNORED)


def check_decoder_input(
    decoder_input_ids: Tensor, labels: Tensor | None, num_utterances: int, vocab_size: int
) -> None:
    """Raise ValueError unless decoder_input_ids (B * K, T) are token ids, in the labels' shape."""
    name = "decoder_input_ids"
    check_tensor(name, decoder_input_ids, "(rows, tokens)")
    if decoder_input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} are {decoder_input_ids.dtype}, expected token ids as torch.int64")
    check_rows(name, decoder_input_ids, num_utterances)
    if labels is not None and labels.shape != decoder_input_ids.shape:
        raise ValueError(
            f"{name} has shape {tuple(decoder_input_ids.shape)}, "
            f"expected that of labels {tuple(labels.shape)}"
        )
    if can_read_values(decoder_input_ids):
        check_ids(name, decoder_input_ids, vocab_size)


def check_rows(name: str, tokens: Tensor, num_utterances: int) -> None:
    """Raise ValueError unless tokens (B * K, T) have as many rows for each utterance, and T > 0."""
    rows, T = tokens.shape
    if T == 0:
        raise ValueError(f"{name} has shape {(rows, T)}, expected at least one token in a row")

    # Rows of one utterance follow each other: another number would mix utterances.
    if rows == 0 or rows % num_utterances:
        raise ValueError(
            f"{name} has {rows} rows, expected a multiple of the {num_utterances} utterances"
        )


def check_ids(name: str, tokens: Tensor, vocab_size: int, allowed: int | None = None) -> None:
    """Raise ValueError unless all tokens are ids of the vocabulary, or `allowed`."""
    # IGNORED is allowed among labels, but not among tokens that a decoder reads.
    is_wrong = (tokens < 0) | (tokens >= vocab_size)  # (B * K, T)
    expected = f"token ids from 0 to {vocab_size - 1}"
    if allowed is not None:
        is_wrong = is_wrong & (tokens != allowed)
        expected += f", or {allowed} where the loss is not computed"
    if is_wrong.any():
        raise ValueError(f"{name} has {tokens[is_wrong][0].item()}, expected {expected}")


def check_memory(memory: Tensor, frame_lengths: Tensor | None, hidden_size: int) -> None:
    """Raise ValueError unless memory is (B, S, H), and frame_lengths (B,) or None."""
    shape = tuple(getattr(memory, "shape", ()))
    if len(shape) != 3 or 0 in shape or shape[2] != hidden_size:
        raise ValueError(
            f"memory has shape {shape}, expected (utterances, frames, {hidden_size}), as `encode` "
            "returns it"
        )
    if frame_lengths is None:
        return
    if tuple(getattr(frame_lengths, "shape", ())) != shape[:1]:
        raise ValueError(
            f"frame_lengths is {frame_lengths!r:.80}, expected a tensor of {shape[0]} numbers"
        )
    is_possible = (frame_lengths > 0) & (frame_lengths <= shape[1])  # (B,)
    if can_read_values(frame_lengths) and not is_possible.all():
        raise ValueError(f"frame_lengths is {frame_lengths.tolist()}, expected 1 to {shape[1]}")


def can_read_values(tensor: Tensor) -> bool:
    """Whether values are there to be read at no cost: not on a GPU, nor in a traced graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
