"""The fourteen exercises: what is to be written, what the grader calls it with, and the hints.

A check is a generator that calls the student's function and yields (what is special here, what came back).
It never looks at the answer: keys/ has what the package returns, and what known mistakes return.
All numbers come from numpy's RandomState, which gives the same on every machine, and are float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from nanos2t.beams import Beams
from nanos2t.decoder import Block, Decoder, DecoderConfig, Embedding, KVCache
from nanos2t.generate import DecoderSession
from nanos2t.generation_config import GenerationConfig
from nanos2t.remap import TensorRow, parse_table
from nanos2t.wav2vec2 import Attention, EncoderConfig, FeatureEncoder
from nanos2t.wav2vec2 import Block as EncoderBlock

Check = Callable[[Callable], Iterator[tuple[str, object]]]
TORCH = "import torch\nfrom torch import Tensor\nfrom torch.nn import functional as F\n"


@dataclass(frozen=True)
class Exercise:
    """`checks` maps a function, written "wav2vec2:Attention.split_heads" for nanos2t/wav2vec2.py, to its check.

    `laws` maps some of them to (test, sentence): the sentence is said if the values are wrong and the test,
    which calls the function, gives False.
    """

    name: str
    title: str
    task: str
    imports: str
    checks: dict[str, Check]
    hints: tuple[str, str, str]
    laws: dict[str, tuple[Callable[[Callable], bool], str]]

    @property
    def id(self) -> str:
        return self.name.partition("_")[0]

    @property
    def number(self) -> int:
        return int(self.id[2:])


# Inputs


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


@torch.no_grad()
def spread(module: nn.Module, seed: int) -> nn.Module:
    """The module with weights under which a mistake shows, in float64 and eval mode."""
    random = np.random.RandomState(seed)
    for part in module.double().eval().modules():
        for name, weight in part.named_parameters(recurse=False):
            noise = torch.from_numpy(random.standard_normal(weight.shape))
            if isinstance(part, (nn.LayerNorm, nn.GroupNorm)) and name == "weight":
                noise = 1 + 0.3 * noise
            elif weight.ndim == 1:
                noise = 0.3 * noise
            elif not isinstance(part, nn.Embedding):
                noise = 1.5 / weight[0].numel() ** 0.5 * noise
            weight.copy_(noise)
    return module.requires_grad_(False)


def encoder_config(**fields) -> EncoderConfig:
    small = {
        "hidden_size": 12,
        "num_layers": 1,
        "num_heads": 3,
        "intermediate_size": 7,
        "conv_bias": True,
    }
    small |= {"conv_channels": (4, 5, 6), "conv_kernels": (5, 3, 2), "conv_strides": (3, 2, 1)}
    return EncoderConfig(**(small | {"position_kernel": 4, "position_groups": 3} | fields))


SMALL = {
    "hidden_size": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_size": 7,
    "max_positions": 9,
}
BERT, GPT2, MBART = (
    DecoderConfig.bert(11, **SMALL),
    DecoderConfig.gpt2(11, **SMALL),
    DecoderConfig.mbart,
)
MBART = MBART(11, **(SMALL | {"embed_scale": 2.5}))


def valid(*lengths: int) -> Tensor:
    """(B, T) bool, as nanos2t.wav2vec2.valid_frames has it."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


class Toy:
    """`next_logits` of a model that remembers, as a cache does, the tokens it was given row by row.

    The logits depend on the last two tokens that it remembers, so a wrong `parents` shows in the result.
    """

    def __init__(self, seed: int, size: int = 7):
        self.table = 2 * draw(seed, size, size, size).float()
        self.rows = torch.zeros(0, 0, dtype=torch.long)

    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        self.rows = self.rows if parents is None else self.rows[parents]
        new = tokens[:, self.rows.shape[1] :]
        self.rows = torch.cat([self.rows, new], 1) if self.rows.numel() else new
        before = self.rows[:, -2] if self.rows.shape[1] > 1 else torch.zeros_like(self.rows[:, -1])
        return self.table[before, self.rows[:, -1]]


# Checks: what the student's function f is called with


def normalise(f):
    noise = draw(1, 7).numpy().astype(np.float32)
    yield "a short waveform", f(0.3 + 0.1 * noise)
    yield "a very quiet waveform", f(0.001 + 0.0003 * noise)
    yield "silence", f(np.zeros(5, np.float32))
    yield "eps=0.5", f(noise[:5], 0.5)


def conv_output_lengths(f):
    samples = torch.tensor([400, 719, 720, 799, 16000, 160001])
    yield "10 taps, stride 5", f(samples, nn.Conv1d(1, 1, 10, 5))
    yield "3 taps, stride 2, padding 1", f(samples, nn.Conv1d(1, 1, 3, 2, padding=1))
    yield "2 taps, stride 2", f(samples, nn.Conv1d(1, 1, 2, 2))
    yield "frames is None", f(None, nn.Conv1d(1, 1, 2, 2))


def valid_frames(f):
    yield "3 items, the longest fills the buffer", f(torch.tensor([3, 5, 1]), 5)
    yield "2 items, a longer buffer", f(torch.tensor([2, 4]), 6)


def zero_padding(f):
    yield "2 items", f(draw(2, 2, 4, 3), torch.tensor([4, 2]))
    yield "frames is None", f(draw(3, 2, 4, 3), None)


def masked_group_norm(f):
    weight, bias = 1 + 0.3 * draw(4, 3), 0.3 * draw(5, 3)
    yield "with padding", f(draw(6, 2, 3, 6) + 1, torch.tensor([6, 4]), weight, bias)
    yield "no padding", f(draw(7, 2, 3, 5), None, weight, bias)
    yield "small values", f(0.003 * draw(8, 2, 3, 6), torch.tensor([5, 6]), weight, bias)
    yield "eps=0.5", f(draw(9, 2, 3, 6), torch.tensor([5, 6]), weight, bias, 0.5)


def clip_norm_law(f) -> bool:
    x, rest = draw(6, 1, 3, 6), (torch.tensor([4]), torch.ones(3), torch.zeros(3))
    other = torch.cat([x[..., :4], 9 + x[..., 4:]], 2)
    return torch.allclose(f(x, *rest)[..., :4], f(other, *rest)[..., :4])


def conv_layer(f):
    x, lengths = 2 * draw(58, 2, 1, 43), torch.tensor([43, 30])
    for norm in "group", "layer":
        layers = spread(FeatureEncoder(encoder_config(conv_norm=norm)), 59).conv_layers
        yield f"{norm} norm, with padding", channels_first(f(layers[0], x, lengths))
        yield f"{norm} norm, no padding", channels_first(f(layers[0], x, None))
    without = spread(FeatureEncoder(encoder_config(conv_activation="relu")), 60).conv_layers[1]
    yield "no norm, activation relu", channels_first(f(without, 2 * draw(61, 2, 4, 14), None))


def channels_first(result):
    """(x, lengths) of x (B, C, T) with zeros in the padding, whose values are free."""
    try:
        x, lengths = real((result[0].transpose(1, 2), result[1]))
        return x.transpose(1, 2), lengths
    except (TypeError, AttributeError, RuntimeError, IndexError):
        return result


def feature_encoder(f):
    group, layer = (
        spread(FeatureEncoder(encoder_config(conv_norm=norm)), 10) for norm in ("group", "layer")
    )
    relu = spread(FeatureEncoder(encoder_config(conv_activation="relu")), 11)
    x, samples = 2 * draw(12, 2, 43), torch.tensor([43, 30])
    yield "group norm, with padding", real(f(group, x, samples))
    yield "layer norm, with padding", real(f(layer, x, samples))
    yield "group norm, no padding", real(f(group, x, None))
    yield "layer norm, activation relu", real(f(relu, x, None))
    yield "a clip that is shorter than one frame", real(f(layer, x[:, :5], None))
    yield "a batch with one such item", real(f(group, x, torch.tensor([43, 9])))


def real(result):
    """(x, frames) with zeros behind each item's end: what stands there is free."""
    try:
        return result[0] * (torch.arange(result[0].shape[1]) < result[1][:, None])[
            ..., None
        ], result[1]
    except (TypeError, AttributeError, RuntimeError, IndexError):
        return result


def feature_encoder_law(f) -> bool:
    module = spread(FeatureEncoder(encoder_config(conv_norm="group")), 10)
    x, samples = draw(12, 1, 43), torch.tensor([30])
    other = torch.cat([x[:, :30], 9 + x[:, 30:]], 1)
    return torch.allclose(real(f(module, x, samples))[0], real(f(module, other, samples))[0])


def position_conv(f):
    for taps in 4, 5:
        gain, direction = 0.5 + draw(13, 1, 1, taps).abs(), draw(14, 6, 2, taps)
        yield f"{taps} taps", f(draw(15, 2, 7, 6), gain, direction, 0.3 * draw(16, 6), 3)
    yield "fewer frames than taps", f(draw(17, 1, 2, 6), gain, direction, 0.3 * draw(16, 6), 3)


def attention_module(seed: int) -> Attention:
    return spread(Attention(encoder_config()), seed)


def split(f):
    yield "5 frames, 3 heads", f(attention_module(18), draw(19, 2, 5, 12))


def attention_weights(f):
    queries, keys = draw(20, 2, 3, 4, 5), draw(21, 2, 3, 6, 5)
    yield "no mask", f(queries, keys)
    yield "a mask that hides padding", f(queries, keys, valid(6, 4)[:, None, None])


def attention_weights_law(f) -> bool:
    weights = f(draw(20, 2, 3, 4, 5), draw(21, 2, 3, 6, 5), valid(6, 4)[:, None, None])
    return torch.allclose(weights.sum(3), torch.ones(2, 3, 4).double())


def attend(f):
    queries, keys, values = draw(20, 2, 3, 4, 5), draw(21, 2, 3, 6, 5), draw(22, 2, 3, 6, 5)
    yield "no mask", f(queries, keys, values)
    yield "a mask that hides padding", f(queries, keys, values, valid(6, 4)[:, None, None])
    yield "is_causal=True", f(queries, keys[:, :, :4], values[:, :, :4], is_causal=True)


def attend_law(f) -> bool:
    queries, keys, values = draw(20, 1, 3, 4, 5), draw(21, 1, 3, 4, 5), draw(22, 1, 3, 4, 5)
    other = torch.cat([values[:, :, :2], 9 + values[:, :, 2:]], 2)
    before, after = (f(queries, keys, v, is_causal=True) for v in (values, other))
    return torch.allclose(before[:, :, :2], after[:, :, :2])


def attention(f):
    module, memory = attention_module(18), draw(23, 2, 6, 12)
    keys, values = module.project_keys_values(memory)
    yield "4 queries, 6 keys", f(module, draw(24, 2, 4, 12), keys, values)
    yield "with a mask", f(module, draw(24, 2, 4, 12), keys, values, valid(6, 4)[:, None, None])
    keys, values = keys[:, :, :4], values[:, :, :4]
    yield "is_causal=True", f(module, draw(24, 2, 4, 12), keys, values, None, True)


def encoder_block(f):
    for pre_norm in False, True:
        block = spread(EncoderBlock(encoder_config(pre_norm=pre_norm)), 25)
        mask = valid(5, 3)[:, None, None]
        yield f"pre_norm={pre_norm}, with a mask", f(block, draw(26, 2, 5, 12), mask)
        yield f"pre_norm={pre_norm}, no mask", f(block, draw(27, 2, 5, 12), None)


def encoder_block_law(f) -> bool:
    block, x = spread(EncoderBlock(encoder_config()), 25), draw(26, 1, 5, 12)
    other = torch.cat([x[:, :3], 9 + x[:, 3:]], 1)
    before, after = (f(block, y, valid(5, 3)[1:, None, None]) for y in (x, other))
    return torch.allclose(before[:, :3], after[:, :3])


def embedding(f):
    tokens = torch.tensor([[1, 5, 7, 5], [1, 8, 3, 0]])
    for name, config in ("BERT", BERT), ("GPT-2", GPT2), ("mBART", MBART):
        yield name, f(spread(Embedding(config), 28), tokens, 0)
        yield f"{name}, 3 tokens in the cache", f(spread(Embedding(config), 28), tokens[:, :2], 3)
    yield (
        "mBART without its norm",
        f(spread(Embedding(replace(MBART, embed_norm=False)), 28), tokens, 0),
    )


def causal_mask(f):
    for T, past in (4, 0), (3, 2), (1, 5):
        yield f"{T} new tokens, {past} past ones", f(T, past, torch.device("cpu"))


def memory_of(block: Block, seed: int) -> tuple[Tensor, Tensor]:
    return block.cross_attn.project_keys_values(draw(seed, 2, 5, 12))


def attend_memory(f):
    block = spread(Block(BERT), 29)
    mask = valid(5, 3)[:, None, None]
    yield "no padding", f(block, draw(30, 2, 3, 12), memory_of(block, 31), None)
    yield "with padding", f(block, draw(30, 2, 3, 12), memory_of(block, 31), mask)
    yield "3 beams of each utterance", f(block, draw(32, 6, 2, 12), memory_of(block, 31), mask)


def attend_memory_law(f) -> bool:
    block, x, heard = spread(Block(BERT), 29), draw(30, 1, 3, 12), draw(31, 1, 5, 12)
    other = torch.cat([heard[:, :3], 9 + heard[:, 3:]], 1)
    both = [
        f(block, x, block.cross_attn.project_keys_values(y), valid(5, 3)[1:, None, None])
        for y in (heard, other)
    ]
    return torch.allclose(*both)


def decoder_block(f):
    mask = valid(5, 3)[:, None, None]
    for name, config in ("BERT", BERT), ("GPT-2", GPT2):
        block = spread(Block(config), 33)
        yield (
            f"{name}, with padding",
            f(block, draw(34, 2, 4, 12), memory_of(block, 35), mask, None),
        )
        cache = KVCache(2, config, 6, draw(36, 1))
        steps = [f(block, x, memory_of(block, 35), mask, cache) for x in draw(37, 3, 2, 1, 12)]
        yield f"{name}, token by token with a cache", steps


def decoder_block_law(f) -> bool:
    block, x = spread(Block(BERT), 33), draw(34, 2, 4, 12)
    other = torch.cat([x[:, :2], 9 + x[:, 2:]], 1)
    before, after = (f(block, y, memory_of(block, 35), None, None) for y in (x, other))
    return torch.allclose(before[:, :2], after[:, :2])


def shift_right(f):
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    yield "start 1, pad 0", f(labels, 1, 0)
    yield "start 2, pad 9", f(labels.clone(), 2, 9)


def cross_entropy(f):
    labels = torch.tensor([[5, 6, 4, 2, 3], [1, 2, -100, -100, -100]])
    yield "5 and 2 real labels", f(3 * draw(38, 2, 5, 7), labels)
    yield "all labels real", f(3 * draw(39, 2, 2, 7), labels[:, :2])
    yield "all labels ignored", f(draw(40, 1, 3, 7), labels[1:, 2:])


def cache_append(f):
    cache = KVCache(2, BERT, 6, draw(41, 1))
    for i, new in enumerate((2, 1, 1)):
        result = f(cache, draw(42 + i, 2, 3, new, 4), draw(52 + i, 2, 3, new, 4))
        yield f"call {i + 1}: {new} new tokens", (result, cache.length)


def decoding(f):
    decoder = spread(Decoder(BERT), 43)
    search = DecoderSession(decoder, draw(44, 2, 5, 12), torch.tensor([5, 3]), rows=4, max_length=8)
    tokens = torch.tensor([[1, 5, 7, 5, 3], [1, 8, 3, 9, 4], [1, 4, 2, 6, 6], [1, 9, 9, 3, 8]])
    parents = torch.tensor([1, 1, 3, 2])
    moved = torch.cat([tokens[parents, :3], tokens[:, 3:]], 1)
    yield "first call: 2 tokens", (f(search, tokens[:, :2], None), search.caches[0].length)
    yield "second call: 1 token more", (f(search, tokens[:, :3], None), search.caches[0].length)
    yield (
        "third call: rows change places",
        (f(search, moved[:, :4], parents), search.caches[0].length),
    )
    yield "fourth call", (f(search, moved, None), search.caches[0].length)


def greedy(f):
    start = torch.tensor([[1], [3], [4], [5]])
    config = GenerationConfig(max_length=9, eos_token_id=2, pad_token_id=6)
    for seed in GREEDY:
        yield f"model {seed}", f(Toy(seed), start, config)
    config = GenerationConfig(
        max_length=6, min_length=5, eos_token_id=2, pad_token_id=0, length_penalty=2.0
    )
    yield "min_length=5, length_penalty=2", f(Toy(GREEDY[0]), start, config)


def cache_reorder(f):
    cache = KVCache(3, BERT, 5, draw(45, 1))
    cache.append(draw(46, 3, 3, 4, 4), draw(47, 3, 3, 4, 4))
    f(cache, torch.tensor([2, 0, 0]))
    yield "rows 2, 0, 0", (cache.keys[:, :, :4], cache.values[:, :, :4], cache.length)


def continuations(f):
    tokens = torch.tensor([[[1, 3, 4], [1, 3, 5], [1, 4, 4]], [[1, 5, 5], [1, 6, 4], [1, 3, 3]]])
    scores = torch.tensor([[-1.0, -1.5, -2.5], [-0.7, -0.9, -3.1]])
    beams = Beams(tokens, -draw(48, 2, 3, 2).abs().float(), scores, tokens[..., 0] > 9)
    config = GenerationConfig(max_length=9, num_beams=3, eos_token_id=2, pad_token_id=0)
    yield "2 utterances, 3 beams", f(beams, draw(49, 6, 7).float(), config)
    config = GenerationConfig(max_length=4, num_beams=3, eos_token_id=2, pad_token_id=0)
    yield "the last step before max_length", f(beams, draw(50, 6, 7).float(), config)


GREEDY, BEAMS = (1, 4), (28, 4, 17)  # models on which the known mistakes show


def beam_search(f):
    start = torch.tensor([[1], [3]])
    shared = {"eos_token_id": 2, "pad_token_id": 6, "max_length": 8, "num_beams": 3}
    for seed in BEAMS:
        yield f"model {seed}, 3 beams", f(Toy(seed), start, GenerationConfig(**shared))
    more = shared | {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0}
    yield "length_penalty=2, 3 of 4 beams wanted", f(Toy(BEAMS[0]), start, GenerationConfig(**more))
    yield (
        "early_stopping=True",
        f(Toy(BEAMS[1]), start, GenerationConfig(**shared, early_stopping=True)),
    )
    more = shared | {"max_length": 12, "length_penalty": 3.0}
    yield "length_penalty=3", f(Toy(BEAMS[2]), start, GenerationConfig(**more))


def dtw(f):
    planted = np.ones((4, 9))
    planted[[0, 0, 1, 1, 1, 2, 3, 3, 3], range(9)] = 0.1
    yield "a clear path", f(planted)
    yield "5 tokens, 9 frames of noise", f(draw(51, 5, 9).abs().numpy())
    yield "more tokens than frames", f(draw(52, 7, 3).abs().numpy())
    yield "one token", f(draw(53, 1, 4).abs().numpy())
    yield "ties", f(np.zeros((3, 3)))


def remap_split(f):
    copy = TensorRow("ours", "theirs")
    transpose = TensorRow("ours", "theirs", frozenset({"transpose"}))
    three = [torch.zeros(4, 5)] * 3
    yield "one tensor", f(draw(54, 4, 5), [torch.zeros(4, 5)], copy, "file: w")
    yield "transpose", f(draw(55, 5, 4), [torch.zeros(4, 5)], transpose, "file: w")
    yield "transpose, a bias", f(draw(56, 5), [torch.zeros(5)], transpose, "file: b")
    yield "q, k and v in one, transpose", f(draw(57, 5, 12), three, transpose, "file: w")
    yield "another shape", f(draw(58, 5, 4), [torch.zeros(4, 5)], copy, "file: w")
    yield (
        "whole numbers",
        f(torch.zeros(4, 5, dtype=torch.long), [torch.zeros(4, 5)], copy, "file: w"),
    )


TABLE = """
embed.tokens                        wte
blocks.{i}.norm                     h.{i}.ln
blocks.{i}.self_attn.{q,k,v}_proj   h.{i}.c_attn    transpose
blocks.{i}.mlp                      h.{i}.fc
blocks.{i}.mlp                      h.{i}.dense     legacy
spare                               spare           optional
embed.tokens                        lm_head         alias
-                                   h.{i}.mask      drop
"""


def remap_load(f):
    rows, qkv = (
        parse_table(TABLE).tensors,
        [f"blocks.1.self_attn.{part}_proj.weight" for part in "qkv"],
    )
    ours = {
        "embed.tokens.weight": torch.zeros(7, 4),
        "spare": torch.zeros(3),
        "blocks.1.mlp.weight": torch.zeros(5, 4),
    }
    ours |= {"blocks.1.norm.bias": torch.zeros(4)} | {name: torch.zeros(4, 4) for name in qkv}
    theirs = {
        "wte.weight": draw(59, 7, 4),
        "h.1.ln.bias": draw(60, 4),
        "h.1.c_attn.weight": draw(61, 4, 12),
    }
    theirs |= {
        "h.1.fc.weight": draw(62, 5, 4),
        "lm_head.weight": draw(59, 7, 4),
        "spare": draw(63, 3),
    }
    theirs["h.1.mask"] = draw(64, 2, 2)

    def without(*names: str) -> dict:
        return {name: value for name, value in theirs.items() if name not in names}

    yield "all tensors there", f(rows, theirs, ours, "file")
    yield "without an optional one", f(rows, without("spare"), ours, "file")
    yield "only the alias there", f(rows, without("wte.weight"), ours, "file")
    older = without("h.1.fc.weight") | {"h.1.dense.weight": draw(65, 5, 4)}
    yield "an older name", f(rows, older, ours, "file")
    yield "one missing", f(rows, without("h.1.ln.bias"), ours, "file")
    yield "an unknown one", f(rows, theirs | {"h.1.adapter": draw(66, 2)}, ours, "file")
    yield (
        "an alias with other values",
        f(rows, theirs | {"lm_head.weight": draw(67, 7, 4)}, ours, "file"),
    )


# The texts

EXERCISES = (
    Exercise(
        "ex01_normalisation",
        "normalisation",
        """\
        The model expects every waveform at mean 0 and variance 1, however loud it was recorded. Each clip
        is normalised alone, before clips of different lengths are padded with zeros to one batch.""",
        "import numpy as np\n",
        {"audio:normalise": normalise},
        (
            "Subtract the mean first. What is left over its own standard deviation has variance 1.",
            "Silence has variance 0, and 0 / 0 is NaN: eps must be added before the square root is taken.",
            "numpy has waveform.mean() and waveform.var(); var divides by the number of samples, as is "
            "wanted.",
        ),
        {},
    ),
    Exercise(
        "ex02_frames",
        "frame counts and masks",
        """\
        Seven convolutions without padding turn samples into frames: 16,000 samples become 49 frames, not
        50. In a batch each item has its own count, and all that looks across time must know where an item
        ends. `conv` has `.kernel_size`, `.stride` and `.padding`, each a tuple of one number. `frames` may
        be None: then nothing is padded.""",
        "import torch\nfrom torch import Tensor, nn\n",
        {
            "wav2vec2:conv_output_lengths": conv_output_lengths,
            "wav2vec2:valid_frames": valid_frames,
            "wav2vec2:zero_padding": zero_padding,
        },
        (
            "How often does a window of `kernel` samples fit, if it moves by `stride`? Draw 10 samples, "
            "4, 2.",
            "The first window takes `kernel` samples; each further one takes `stride` more. Padding adds "
            "samples on both sides before that.",
            "Compare torch.arange(total), shape (T,), with frames[:, None], shape (B, 1): that broadcasts to "
            "(B, T). x.masked_fill(~valid[..., None], 0.0) leaves x itself as it was.",
        ),
        {},
    ),
    Exercise(
        "ex03_conv_block",
        "conv block",
        """\
        The feature encoder: convolution, norm, activation, several times, from samples to frames.
        wav2vec2-base normalises each channel over time (`masked_group_norm`, after the first convolution only), the
        large models each frame over its channels (after all). Padding must not enter any statistics.
        Given in a ConvLayer: `self.conv`, `self.norm` (call it with x and the lengths; None in some layers),
        `self.activation`. Given in the FeatureEncoder: `self.conv_layers` (call each with x and the lengths),
        `self.min_samples`: shorter clips are padded to it.""",
        TORCH + "\nfrom nanos2t.wav2vec2 import conv_output_lengths, valid_frames, zero_padding\n",
        {
            "wav2vec2:masked_group_norm": masked_group_norm,
            "wav2vec2:ConvLayer.forward": conv_layer,
            "wav2vec2:FeatureEncoder.forward": feature_encoder,
        },
        (
            "A mean over the real frames is a sum of the real frames over their number: multiply by the "
            "mask, sum over time, divide by `frames`. The variance goes the same way, and masks once more.",
            "Order in each layer: convolution, then norm (if there is one for this layer), then activation. "
            "Every convolution also makes the frame counts smaller.",
            "A waveform (B, L) enters Conv1d as (B, 1, L). Zero what is behind each item's end first: an "
            "item shorter than one frame counts as min_samples long, zeros and all. The result is (B, T, C).",
        ),
        {
            "wav2vec2:masked_group_norm": (
                clip_norm_law,
                "what stands in the padding changes the real frames",
            ),
            "wav2vec2:FeatureEncoder.forward": (
                feature_encoder_law,
                "what stands in the padding changes the real frames",
            ),
        },
    ),
    Exercise(
        "ex04_positional_conv",
        "positional convolution",
        """\
        Attention does not know the order of its frames. Wav2Vec2 tells it with one wide convolution, whose
        result is added to the frames (by the caller, after a GELU). Its weight is kept as weight norm keeps
        it: a direction (H, H / groups, K) and a gain (1, 1, K) for each of the K taps. The official kernel
        is even, 128: it has no middle, and one side gets a frame more.""",
        TORCH,
        {"wav2vec2:position_conv": position_conv},
        (
            "Weight norm: bring each tap of `direction` to length 1, then multiply by its gain. A tap is a "
            "matrix (H, H / groups): its length is taken over both.",
            "F.conv1d wants (B, H, T). Pad K // 2 on both sides; for an even K that makes one frame too "
            "many.",
            "direction.norm(dim=(0, 1), keepdim=True) has the shape of the gain. Drop the last frame if "
            "there is one too many, not the first.",
        ),
        {},
    ),
    Exercise(
        "ex05_attention",
        "attention",
        """\
        softmax(Q K^T / sqrt(D)) V, in N heads. `split` cuts the width H into N heads of D,
        `attention_weights` is the softmax, `attend` the whole formula, and `forward` makes queries,
        attends, merges the heads.
        A mask is True where one may look, and broadcasts to (B, N, T, S). With `is_causal` (there is no
        mask then, and T = S) token t sees the tokens 0 ... t. `dropout` is 0 here; F.dropout if you like.
        Given in the module: `self.q_proj`, `self.out_proj`, `self.num_heads`, `self.dropout`,
        `self.attention_dropout` (a number, for training only).""",
        "import math\n\n" + TORCH,
        {
            "wav2vec2:Attention.split_heads": split,
            "wav2vec2:attention_weights": attention_weights,
            "wav2vec2:attend": attend,
            "wav2vec2:Attention.forward": attention,
        },
        (
            "Head n has the columns n * D ... (n + 1) * D - 1 of every frame. So the width is cut first, to "
            "(B, T, N, D), and only then are T and N exchanged.",
            "The scores are a matrix product with the last two dimensions of the keys exchanged, divided by "
            "the square root of D, the size of ONE head. Hide with -inf before the softmax, not after it.",
            "Merging is splitting backwards: (B, N, T, D) -> transpose(1, 2) -> (B, T, N, D) -> flatten(2). "
            "Then comes out_proj.",
        ),
        {
            "wav2vec2:attention_weights": (attention_weights_law, "the rows do not sum to 1"),
            "wav2vec2:attend": (
                attend_law,
                "is_causal=True, and yet later tokens change earlier ones",
            ),
        },
    ),
    Exercise(
        "ex06_encoder_layer",
        "encoder layer",
        """\
        Attention, then the MLP, each with a residual and a norm. wav2vec2-base normalises the sum
        (`pre_norm` False), the large models what goes in (`pre_norm` True). Keys and values come from what
        the queries come from: `self.self_attn.project_keys_values(source)` makes both, and `self.self_attn(x, keys,
        values, mask)` attends.
        Given in the module: `self.pre_norm`, `self.self_attn`, `self.self_attn_norm`, `self.mlp`,
        `self.mlp_norm`.""",
        TORCH,
        {"wav2vec2:Block.forward": encoder_block},
        (
            "Post-norm: x = norm(x + f(x)), twice. Pre-norm: x = x + f(norm(x)), twice.",
            "In the pre-norm block the residual is the x that was NOT normalised.",
            "Queries, keys and values all come from the same tensor: in the pre-norm block, the "
            "normalised one.",
        ),
        {
            "wav2vec2:Block.forward": (
                encoder_block_law,
                "what stands in the padding changes the real frames",
            )
        },
    ),
    Exercise(
        "ex07_embeddings",
        "decoder embeddings",
        """\
        What the decoder's first block reads: token embedding, plus position, plus (BERT) token type, then a
        norm. One class serves all families, so each part may be neutral: `embed_scale` 1, `position_offset`
        0, `token_types` None, `norm` an identity. `past` tokens are in the cache already, so the new ones
        do not start at position 0.
        Given in the module: `self.tokens`, `self.positions`, `self.token_types` (embeddings; the last or
        None), `self.norm`, `self.dropout`, `self.config.embed_scale`, `self.config.position_offset`.""",
        TORCH,
        {"decoder:Embedding.forward": embedding},
        (
            "The positions of T new tokens are past, past + 1, ... past + T - 1, each plus the offset.",
            "Only the token embedding is multiplied by embed_scale, before the rest is added.",
            "All tokens are of the first type: row 0 of token_types.weight. The norm comes after the sum.",
        ),
        {},
    ),
    Exercise(
        "ex08_causal_mask",
        "causal mask",
        """\
        While it is trained, the decoder reads all tokens at once, and must not see the one it is to
        predict. True means: may look. With a cache there are also `past` tokens before the T new ones.""",
        TORCH,
        {"decoder:causal_mask": causal_mask},
        (
            "Write the mask for 3 new and 2 past tokens on paper: 3 rows (who looks), 5 columns (at whom).",
            "New token t stands at position past + t. It sees columns 0 ... past + t, itself included.",
            "torch.ones(...).tril(k) keeps what is on or below the diagonal k: which k lets row 0 see "
            "past + 1?",
        ),
        {},
    ),
    Exercise(
        "ex09_cross_attention",
        "cross-attention",
        """\
        Here the text looks at the sound. `memory` is a pair: keys and values that were made of the
        encoder's frames once, (B, N, S, D) each; the mask (B, 1, 1, S) says which frames are real. In a
        beam search x has B * K rows, the K beams of one utterance next to each other, and all of them look
        at the same memory.
        Then the whole decoder block: self-attention, cross-attention, MLP, each with residual and norm.
        Given: `self.cross_attn(x, keys, values, mask)`; `self.attend_past(x, cache)`, the causal
        self-attention; `self.attend_memory(x, memory, memory_mask)`, yours; `self.mlp`;
        `self.self_attn_norm`, `self.cross_attn_norm`, `self.mlp_norm`; `self.pre_norm`.""",
        TORCH + "\nfrom nanos2t.decoder import KVCache\n",
        {"decoder:Block.attend_memory": attend_memory, "decoder:Block.forward": decoder_block},
        (
            "Cross-attention needs no causal mask: all of the sound has been heard before the first token.",
            "Rows of x and rows of memory must agree. Either repeat memory and mask K times "
            "(repeat_interleave), or put the beams of an utterance side by side: x as (B, K * T, H).",
            "The order is self-attention, cross-attention, MLP. Residuals and norms go as in exercise 6, "
            "with three sublayers now; attend_memory itself adds no residual.",
        ),
        {
            "decoder:Block.attend_memory": (
                attend_memory_law,
                "the padding of the memory changes the result",
            ),
            "decoder:Block.forward": (
                decoder_block_law,
                "later tokens change the result at earlier ones",
            ),
        },
    ),
    Exercise(
        "ex10_shift_and_loss",
        "shift-right and loss",
        """\
        In training the decoder reads the right text, one place late, and is asked at each place for the
        next token. Labels that do not count, as those in the padding, are IGNORED, -100: the loss skips
        them, and no embedding has such a row.""",
        TORCH + "\nfrom nanos2t.model import IGNORED\n",
        {"model:shift_right": shift_right, "model:cross_entropy": cross_entropy},
        (
            "Labels 5 6 7 2 with start token 1 are read as 1 5 6 7. The last label is asked for, never read.",
            "The loss is one mean over all labels of the batch that count, so long texts weigh more.",
            "F.cross_entropy takes ignore_index and reduction='sum'. Divide by the number of labels that "
            "count, or by 1 if there is none: 0, not NaN.",
        ),
        {},
    ),
    Exercise(
        "ex11_greedy",
        "cached greedy",
        """\
        The simplest search: append the likeliest token, again and again. Keys and values of past tokens
        do not change. A cache keeps them, so that each step computes those of one new token only.

        `KVCache.append` stores the keys and values of new tokens after the `self.length` tokens stored
        before, in `self.keys` and `self.values` (B, N, size, D), and returns everything stored.

        `DecoderSession` is called with all tokens so far, and gives the decoder those that the caches
        lack: `self.decoder(new_tokens, self.cross_keys_values, self.memory_mask, self.caches)` returns
        logits (R, T, V). `self.caches` is a list with one KVCache for each block. Each has a `.length`
        and a method `.reorder(parent_rows)`, for rows that changed places.

        `greedy_search` calls `next_logits(tokens, None)` for logits (R, V), and applies
        `process_logits(logits, tokens, config)` (given), which forbids tokens. It stops at
        `config.max_total_length` tokens, the start token included, or when each row has a token of
        `config.eos_ids`. After its EOS, a row gets pads, whose log-probability is 0. They add nothing
        to its length. The score is the sum of log-probabilities / length ** config.length_penalty; the
        length counts EOS, but not the start token. Sampling (config.do_sample) and `trace` (for
        pictures) are not part of this exercise.""",
        TORCH
        + "\nfrom nanos2t.generate import Generated, NextLogits\nfrom nanos2t.generation_config import GenerationConfig\nfrom nanos2t.logits_processing import process_logits\n"
        + "from nanos2t.search_trace import Candidate\n",
        {
            "decoder:KVCache.append": cache_append,
            "generate:DecoderSession.__call__": decoding,
            "generate:greedy_search": greedy,
        },
        (
            "append: the new ones go to places length ... length + T - 1; then length grows, then slice.",
            "DecoderSession: tokens[:, self.caches[0].length:] are new. Return the logits of the last one.",
            "greedy_search: keep `ended`, a bool for each row. A row that has ended gets config.pad_token_id, "
            "and adds 0 to its sum and to its length. Set `ended` after the EOS is counted.",
        ),
        {},
    ),
    Exercise(
        "ex12_beam_search",
        "beam search",
        """\
        Keep the K best beginnings instead of one.

        `KVCache.reorder` moves rows of the cache: row i becomes what row rows[i] was.

        `best_continuations` continues each beam of an utterance by each possible token. It returns the
        best C = 2 K of the K * V results, best first, as Beams (B, C), and the beams that they continue,
        their parents (B, C). There are 2 K of them so that K can run on even if K end. (With several
        EOS ids, C is 1 + their number, times K.)

        `beam_search` repeats four steps:
        STEP 1: find the best continuations, the candidates.
        STEP 2: the K best candidates that have not ended run on. `next_logits(tokens, parent_rows)` is
        told which of the R = B * K rows of the previous call each row continues.
        STEP 3: those of the first K candidates that have ended compete for K places, by their sum /
        length ** length_penalty. The length counts EOS, but not the start token.
        STEP 4: stop when every utterance has K finished hypotheses, and its best running beam, at its
        present length, is no better than the worst of them. With early_stopping True, stop as soon as K
        have finished. Stop also when all candidates end, at config.max_total_length.
        There are always B * K rows. Sampling, early_stopping="never" and `trace` are not part of this
        exercise.

        Given: Beams with `select`, `append` and `merge`; `initial_beams(start, K)`, which returns the
        running beams (all are the same, so only the first one counts) and K empty places;
        `process_logits(logprobs, tokens, config)`; IMPOSSIBLE. After the end of a hypothesis come pads
        (EOS, if the pad id is 0 or None), with log-probability 0.""",
        TORCH
        + "\nfrom nanos2t.beams import IMPOSSIBLE, Beams, initial_beams\nfrom nanos2t.decoder import KVCache\n"
        + "from nanos2t.generate import Generated, NextLogits\n"
        + "from nanos2t.generation_config import GenerationConfig\nfrom nanos2t.logits_processing import process_logits\n"
        + "from nanos2t.search_trace import Candidate\n",
        {
            "decoder:KVCache.reorder": cache_reorder,
            "generate:best_continuations": continuations,
            "generate:beam_search": beam_search,
        },
        (
            "best_continuations: log_softmax the logits, add the score of the beam, and take topk over all "
            "beams and tokens at once: an index i of K * V is beam i // V with token i % V.",
            "beam_search: write it for one utterance with Python lists of (score, tokens) first. A candidate "
            "that has ended does not run on, and only its score is divided by the length.",
            "Row numbers: beam k of utterance b is row b * K + k. parent_rows is None in the first call only. "
            "A candidate that has ended but is not among the first K is dropped.",
        ),
        {},
    ),
    Exercise(
        "ex13_alignment",
        "bonus: alignment by dynamic time warping",
        """\
        When was each word said? The cross-attention tells, blurred. Dynamic time warping finds the cheapest
        path through a table cost (T tokens, S frames), from the first token and frame to the last of both,
        that never goes back. The result lists all its cells in order, as rows (token, frame).""",
        "import numpy as np\n",
        {"transcription.alignment:dtw": dtw},
        (
            "Fill a table: the cheapest way to cell (t, s) is its own cost plus the cheapest of the ways to "
            "the three cells before it: (t - 1, s - 1), (t - 1, s), (t, s - 1).",
            "A border of infinity around the table, with 0 at its corner, saves the special cases.",
            "The path is found backwards: from the last cell, always to the cheapest of the three before it "
            "(of equals, the diagonal one); then turn it round.",
        ),
        {},
    ),
    Exercise(
        "ex14_weight_map",
        "weight mapping",
        """\
        A checkpoint has the same tensors under other names, some of them fused or transposed. A table says
        which is which, by rows (ours, theirs, flags). `unfuse` splits one tensor of theirs into the one or
        several of ours that it holds, in this order. If `row.is_transposed`, a matrix is stored as (in, out),
        the other way round than ours (a bias has one dimension and stays).
        `import_state` fills all tensors of ours, or raises a ValueError that names the tensor: nothing is
        ever skipped in silence. A row may be `row.is_alias` (a second name: must be equal if both are
        there, fills in if the first is not), `row.is_legacy` (an older name), `row.is_optional` (may be
        absent), `row.is_dropped` (theirs only).
        Given: `match_rows(rows, ours)` yields (our names, their name, row) for each tensor, aliases last;
        `compile_pattern(row.theirs).fullmatch(name)` tells whether a row covers a name of theirs;
        `shorten(names)` lists names; `fuse(tensors, row)` is `unfuse` backwards, and on the meta device
        tells the shape to expect.""",
        "from collections.abc import Mapping\n\nimport torch\nfrom torch import Tensor, equal\n\n"
        "from nanos2t.remap import TensorRow, compile_pattern, fuse, match_rows\nfrom nanos2t.remap_config import shorten\n",
        {"remap:unfuse": remap_split, "remap:import_state": remap_load},
        (
            "unfuse: check the shape first. Transpose, then cut along the rows: value.split([4, 4, 4]).",
            "import_state: two lists of what is left over decide whether it may end well: tensors of ours that "
            "nothing filled, and tensors of theirs that nothing read.",
            "Missing is what a row without alias, legacy and optional should have filled. Unknown is what "
            "was not read and no row with drop or optional covers.",
        ),
        {},
    ),
)
