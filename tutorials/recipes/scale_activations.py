"""Count the bytes that one training step keeps for its backward pass, part by part of the model.

"narrow" numbers go in and out of matrix products, "wide" ones in and out of the encoder's norms. A
row is one frame or token. tutorials/scale.md explains what is counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, conv_output_lengths

FLOAT = 4  # bytes of a number in float32


@dataclass(frozen=True)
class Step:
    """What one GPU does before the weights are updated: clips of equal length, and as many texts.

    bfloat16: autocast, in which matrix products are in bfloat16, norms and sums in float32.
    frozen: the convolutions are not trained, so nothing of them is kept.
    checkpoint: each block keeps only its input and is computed again.
    cpu: a dropout keeps factors instead of bytes, and autocast lets norms be bfloat16.
    """

    clips: int = 8
    samples: int = 15 * 16_000
    tokens: int = 64
    bfloat16: bool = True
    frozen: bool = True
    checkpoint: bool = False
    cpu: bool = False

    @property
    def narrow(self) -> int:
        """Bytes of a number that goes in or out of a matrix product."""
        return 2 if self.bfloat16 else FLOAT

    @property
    def wide(self) -> int:
        """Bytes of a number that goes in or out of one of the encoder's norms."""
        return self.narrow if self.cpu else FLOAT


@dataclass(frozen=True)
class Stage:
    """A part of the model, in the order of the forward pass.

    kept: bytes that it keeps for the backward pass. passing: bytes that its backward pass needs for
    a moment on top of them.
    """

    name: str
    parameters: int
    kept: int
    passing: int = 0


def list_stages(model: SpeechEncoderDecoder, step: Step) -> list[Stage]:
    """Return what a step keeps, part by part.

    In post-norm blocks the products read the result of the norm before them: these are as many
    bytes as in pre-norm blocks, counted one place later.
    """
    return [*encoder_stages(model, step), *decoder_stages(model, step)]


# Parts that encoder and decoder share


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_trained(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def norm_bytes(rows: int, size: int, wide: int) -> int:
    """A norm keeps its input, and two numbers a row."""
    return rows * size * wide + rows * 2 * FLOAT


def dropout_bytes(numbers: int, rate: float, step: Step) -> int:
    """A dropout keeps its mask."""
    if rate == 0:
        return 0
    return numbers * FLOAT if step.cpu else numbers


def attention_bytes(rows: int, config, step: Step, wide: int = FLOAT, sources: int = 0) -> int:
    """Count what attention keeps of `rows` queries, from its norm to its dropout.

    With `sources`, the queries look at so many frames of a memory. Its keys and values are counted
    here, the memory itself elsewhere.
    """
    size = config.hidden_size
    kept = norm_bytes(rows, size, wide)

    # Three products read the norm's result (one if keys and values come from a memory). They share
    # it, unless autocast makes a narrow copy for each.
    inputs = 1
    if wide > step.narrow and not sources:
        inputs = 3
    kept += inputs * rows * size * step.narrow

    # The fused kernel keeps queries, keys, values, its result, and one number a row and head.
    kept += (2 * rows + 2 * (sources or rows)) * size * step.narrow
    kept += rows * config.num_heads * FLOAT
    return kept + dropout_bytes(rows * size, config.training.hidden_dropout, step)


def mlp_bytes(rows: int, config, step: Step, wide: int = FLOAT) -> int:
    """Count the norm, its result, and the inner width before and after the activation."""
    size = config.hidden_size
    inner = config.intermediate_size
    kept = norm_bytes(rows, size, wide)
    kept += rows * (size + 2 * inner) * step.narrow
    kept += dropout_bytes(rows * inner, config.training.activation_dropout, step)
    return kept + dropout_bytes(rows * size, config.training.hidden_dropout, step)


def block_stage(name: str, block: nn.Module, input_size: int, kept: int, step: Step) -> Stage:
    """With checkpoints a block keeps only its input, and needs the rest for a moment."""
    if step.checkpoint:
        return Stage(name, count_trained(block), input_size * FLOAT, kept)
    return Stage(name, count_trained(block), kept)


# The encoder


def sequence_lengths(model: SpeechEncoderDecoder, samples: int) -> list[int]:
    """Return the length after each convolution of the feature encoder, and of the adapter."""
    lengths = [samples]
    for layer in (*model.encoder.feature_encoder.conv_layers, *model.encoder.adapter.layers):
        lengths.append(conv_output_lengths(lengths[-1], layer.conv))
    return lengths[1:]


def encoder_stages(model: SpeechEncoderDecoder, step: Step) -> Iterator[Stage]:
    encoder = model.encoder
    config = encoder.config
    lengths = sequence_lengths(model, step.samples)
    num_convs = len(config.conv_channels)
    frames = lengths[num_convs - 1]
    rows = step.clips * frames

    kept = 0 if step.frozen else feature_encoder_bytes(config, lengths, step)
    yield Stage("feature encoder", count_trained(encoder.feature_encoder), kept)
    kept = projection_bytes(config, rows, step)
    yield Stage("feature projection", count_trained(encoder.feature_projection), kept)

    # The weight norm's backward pass needs the weight six times.
    weight = encoder.positions.direction.numel()
    kept = positions_bytes(config, weight, frames, step)
    yield Stage("positions", count_trained(encoder.positions), kept, 6 * weight * FLOAT)

    kept = attention_bytes(rows, config, step, step.wide) + mlp_bytes(rows, config, step, step.wide)
    for i, block in enumerate(encoder.blocks):
        yield block_stage(f"encoder block {i}", block, rows * config.hidden_size, kept, step)

    kept = adapter_bytes(config, lengths[num_convs - 1 :], step)
    parameters = count_trained(encoder.adapter) + count_trained(encoder.norm)
    yield Stage("adapter", parameters, kept)


def feature_encoder_bytes(config: EncoderConfig, lengths: list[int], step: Step) -> int:
    kept = step.clips * step.samples * step.narrow
    last = len(config.conv_channels) - 1
    for i, (channels, length) in enumerate(zip(config.conv_channels, lengths)):
        numbers = step.clips * length * channels
        if config.conv_norm == "layer" or i == 0:
            # The inputs of the norm and of the activation, and two numbers a group of the norm.
            groups = length if config.conv_norm == "layer" else channels
            kept += 2 * numbers * step.wide + 2 * FLOAT * step.clips * groups
        else:
            kept += numbers * step.narrow
        # The input of the next convolution.
        if i < last:
            kept += numbers * step.narrow
    return kept


def projection_bytes(config: EncoderConfig, rows: int, step: Step) -> int:
    channels = config.conv_channels[-1]
    kept = rows * channels * step.narrow
    if config.feat_proj_norm:
        kept += norm_bytes(rows, channels, step.wide)
    numbers = rows * config.hidden_size
    return kept + dropout_bytes(numbers, config.training.feat_proj_dropout, step)


def positions_bytes(config: EncoderConfig, weight: int, frames: int, step: Step) -> int:
    size = config.hidden_size
    rows = step.clips * frames
    # An even kernel makes one frame too many.
    padded_rows = step.clips * (frames + 1 - config.position_kernel % 2)
    kept = weight * step.narrow + (rows + padded_rows) * size * step.narrow
    # The norm before the blocks.
    if not config.pre_norm:
        kept += norm_bytes(rows, size, step.wide)
    return kept + dropout_bytes(rows * size, config.training.hidden_dropout, step)


def adapter_bytes(config: EncoderConfig, lengths: list[int], step: Step) -> int:
    """Count what comes after the blocks; lengths: before the adapter, and after each of its
    layers.
    """
    rows = step.clips * lengths[0]
    size = config.hidden_size
    kept = 0
    if config.pre_norm:
        kept += norm_bytes(rows, size, step.wide)
    if config.output_size != size:
        kept += rows * size * step.narrow + norm_bytes(rows, config.output_size, step.wide)
    for before, after in zip(lengths, lengths[1:]):
        kept += step.clips * (before + 2 * after) * config.output_size * step.narrow
    return kept


# The decoder


def decoder_stages(model: SpeechEncoderDecoder, step: Step) -> Iterator[Stage]:
    decoder = model.decoder
    config = decoder.config
    size = config.hidden_size
    rows = step.clips * step.tokens
    sources = step.clips * sequence_lengths(model, step.samples)[-1]

    # The bridge's input, and the memory.
    kept = count_memory_copies(model, step) * sources * size * step.narrow
    if count_trained(model.bridge):
        kept += sources * model.encoder.config.output_size * step.narrow
    yield Stage("bridge", count_trained(model.bridge), kept)

    # The ids are 8 bytes each. A tied table belongs to the head, where its gradient comes first;
    # the embedding's is added to it.
    kept = rows * 8 + dropout_bytes(rows * size, config.training.hidden_dropout, step)
    if config.embed_norm:
        kept += norm_bytes(rows, size, FLOAT)
    table = decoder.embed.tokens.weight.numel() if config.tied else 0
    yield Stage("embedding", count_trained(decoder.embed) - table, kept, table * FLOAT)

    kept = attention_bytes(rows, config, step) + mlp_bytes(rows, config, step)
    kept += attention_bytes(rows, config, step, FLOAT, sources)
    for i, block in enumerate(decoder.blocks):
        stage = block_stage(f"decoder block {i}", block, rows * size, kept, step)
        # Keys and values of the memory come from outside the block: they are part of its input.
        if step.checkpoint:
            stage = replace(stage, kept=stage.kept + 2 * sources * size * step.narrow)
        yield stage
    yield head_stage(model, rows, table, step)


def head_stage(model: SpeechEncoderDecoder, rows: int, table: int, step: Step) -> Stage:
    decoder = model.decoder
    config = decoder.config
    size = config.hidden_size
    kept = rows * size * step.narrow
    if config.pre_norm:
        kept += norm_bytes(rows, size, FLOAT)
    if config.mlm_head:
        # The inputs of the dense product, of the activation and of the norm.
        kept += 2 * rows * size * step.narrow + norm_bytes(rows, size, step.wide)

    # The log-probabilities are kept; their gradient is needed for a moment.
    scores = rows * config.vocab_size
    passing = scores * FLOAT
    if step.bfloat16:
        passing += scores * step.narrow
    parameters = count_trained(decoder.head) + count_trained(decoder.norm) + table
    return Stage("head and loss", parameters, kept + scores * FLOAT, passing)


def count_memory_copies(model: SpeechEncoderDecoder, step: Step) -> int:
    """Return how often the memory is kept for the keys and values of all layers.

    Once if the products read it as it is. If it is float32 and they are not, or if the adapter
    leaves it transposed, each product has a copy.
    """
    has_bridge = isinstance(model.bridge, nn.Linear)
    is_transposed = model.encoder.config.adapter_layers > 0
    if not has_bridge and (is_transposed or step.wide > step.narrow):
        return 2 * len(model.decoder.blocks)
    return 1


def autocast_bytes(model: SpeechEncoderDecoder, step: Step) -> int:
    """Count the bfloat16 copies of weights that autocast makes, and keeps until the step ends."""
    if not step.bfloat16:
        return 0
    numbers = model.decoder.config.vocab_size * model.decoder.config.hidden_size
    for part in model.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d)) and part.weight.requires_grad:
            numbers += part.weight.numel()
    return numbers * step.narrow
