"""Where we depart from transformers (HF): both hear one utterance, and are compared stage by stage.
    stages: (name, tensor) ... of our model, part by part        }
    their_stages: the same names, seen by hooks on HF's modules  } -> compare -> render
Shapes: L samples, C channels, T frames or tokens, S those behind the adapter, H hidden_size, V vocab_size."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import files, pretrained, remap
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import Encoder

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # of a stage's largest value
NEW_TOKENS = 20  # of greedy search
# HF's modules -> our stages; in a list they are numbered. Those of a decoder are what its table says.
MODULES = {
    "encoder.feature_extractor.conv_layers": "conv",
    "encoder.feature_projection": "projection",
    "encoder.encoder.pos_conv_embed": "positions",
    "encoder.encoder.layer_norm": "encoder norm",
    "encoder.encoder.layers": "encoder block",
    "encoder.adapter.proj_layer_norm": "adapter norm",
    "encoder.adapter.layers": "adapter",
    "enc_to_dec_proj": "bridge",
}


@dataclass(frozen=True)
class Stage:
    """Numbers are None if HF has no such tensor, or of another shape, or if one holds NaN. The difference of
    tokens is how many are others. `largest`: HF's largest value."""

    stage: str
    shape: tuple[int, ...]
    difference: float | None
    largest: float | None
    departs: bool


@torch.no_grad()
def stages(
    model: SpeechEncoderDecoder, input_values: Tensor, tokens: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """SpeechEncoderDecoder.forward over one utterance (1, L) and decoder input (1, T), part by part."""
    memory, decoder = (yield from encoder_stages(model.encoder, input_values)), model.decoder
    if isinstance(model.bridge, nn.Linear):
        yield "bridge", (memory := model.bridge(memory))  # (1, S, H)
    yield "embedding", (x := decoder.embed(tokens, 0))  # (1, T, H)
    for i, (block, keys_values) in enumerate(zip(decoder.blocks, decoder.project_memory(memory))):
        yield f"decoder block {i}", (x := block(x, keys_values, None, None))  # (1, T, H)
    x = decoder.norm(x)
    if decoder.config.pre_norm:
        yield "decoder norm", x  # (1, T, H)
    yield "logits", decoder.head(x, decoder.embed.tokens.weight)  # (1, T, V)


def encoder_stages(encoder: Encoder, input_values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Encoder.forward over one utterance (1, L): names and tensors; what it returns is (1, S, H)."""
    front, adapter, pre_norm = encoder.feature_encoder, encoder.adapter, encoder.config.pre_norm
    x = input_values[:, None]  # (1, 1, L)
    x = F.pad(x, (0, max(0, front.min_samples - x.shape[2])))
    for i, layer in enumerate(front.conv_layers):
        x, _ = layer(x, None)
        yield f"conv {i}", x  # (1, C, fewer)
    x = encoder.feature_projection(x.transpose(1, 2))
    yield "projection", x  # (1, T, H)
    yield "positions", (positions := encoder.positions(x))  # (1, T, H)
    x = x + positions
    if not pre_norm:
        yield "encoder norm", (x := encoder.norm(x))  # (1, T, H)
    for i, block in enumerate(encoder.blocks):
        yield f"encoder block {i}", (x := block(x, None))  # (1, T, H)
    if pre_norm:
        yield "encoder norm", (x := encoder.norm(x))  # (1, T, H)
    if isinstance(adapter.norm, nn.LayerNorm):
        yield "adapter norm", (x := adapter.norm(adapter.proj(x)))  # (1, T, H)
    for i, layer in enumerate(adapter.layers):
        x, _ = layer(x, None)
        yield f"adapter {i}", x.transpose(1, 2)  # (1, H, fewer)
    return x


@contextmanager
def theirs_at_work(doing: str) -> Iterator[None]:
    """HF is kept quiet; what it raises, which may be anything, becomes a ValueError of one line."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        why = f"{type(error).__name__}: {files.first_line(error)[:200]}"
        raise ValueError(f"transformers {transformers.__version__} {doing} ({why})") from None


def load_theirs(folder: Path, dtype: torch.dtype) -> nn.Module:
    """HF's model from a folder, in eval mode. ValueError, in one line, if HF cannot load it."""
    from transformers import SpeechEncoderDecoderModel as Pair

    with theirs_at_work(f"cannot load {folder}"):
        model, keys = Pair.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        if any(
            getattr(value, "is_meta", False)
            for part in model.modules()
            for value in vars(part).values()
        ):
            loaded, model = model, Pair(model.config).to(dtype)  # which computes TrOCR's table
            model.load_state_dict(loaded.state_dict())
            model.generation_config = loaded.generation_config
    if keys["missing_keys"]:
        pretrained.log.warning(
            "transformers drew at random: %s", ", ".join(sorted(keys["missing_keys"]))
        )
    return model.eval()


def their_stages(
    theirs: nn.Module, family: str, input_values: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    """HF's tensors by the names of our stages. `family`: of the decoder."""
    rows = {
        ours: "decoder." + name
        for ours, name, words in remap.read_table(family).tensors
        if not words
    }
    blocks = next(name for ours, name in rows.items() if ours.startswith("blocks.")).partition(
        ".{i}"
    )[0]
    names = MODULES | {blocks: "decoder block", rows.get("norm"): "decoder norm"}
    found, hooks = {}, []

    def keep(name: str, module: nn.Module, given: tuple, named: dict, result) -> None:
        found[name] = result[0] if isinstance(result, tuple) else result
        if name == "decoder block 0":
            found["embedding"] = (*given, *named.values())[0]

    for path, module in theirs.named_modules():
        above, _, last = path.rpartition(".")
        if (
            name := f"{names[above]} {last}"
            if above in names and last.isdecimal()
            else names.get(path)
        ):
            hooks.append(module.register_forward_hook(partial(keep, name), with_kwargs=True))
    with torch.no_grad():
        found["logits"] = theirs(
            input_values=input_values, decoder_input_ids=tokens, use_cache=False
        ).logits
    for hook in hooks:
        hook.remove()
    return found


def greedy_tokens(
    writer: nn.Module, model: SpeechEncoderDecoder, input_values: Tensor
) -> list[int]:
    """What `writer`, our model or HF's, writes (T,) from our ids; [] if there is none to start with."""
    own, most = vars(model.generation), min(NEW_TOKENS, model.decoder.config.max_positions)
    options = {key: own[key] for key in own if key.endswith("_token_id") and own[key] is not None}
    if "decoder_start_token_id" not in options:
        return []
    options |= {
        "num_beams": 1,
        "num_return_sequences": 1,
        "do_sample": False,
        "max_new_tokens": most,
    }
    return writer.generate(input_values, **options)[0].tolist()


def decoder_input(model: SpeechEncoderDecoder, written: list[int]) -> Tensor:
    """Tokens up to the first pad, which has no position in some decoders; without any, a few ids: (1, T)."""
    first, *rest = written or range(min(8, model.decoder.config.vocab_size))
    read = [first, *takewhile(lambda token: token != model.generation.pad_token_id, rest)]
    return torch.tensor([read[: model.decoder.config.max_positions]])


def compare_models(
    model: SpeechEncoderDecoder, theirs: nn.Module, input_values: Tensor
) -> list[Stage]:
    """Our model and HF's over one utterance (1, L): every stage, and greedy tokens if an id starts them."""
    rows, written = [], greedy_tokens(model, model, input_values)
    tokens = decoder_input(model, written)
    with theirs_at_work("cannot run this model"):
        others = greedy_tokens(theirs, model, input_values)
        found = their_stages(theirs, model.families[1], input_values, tokens)
    for name, x in stages(model, input_values, tokens):
        y = found.get(name, x.new_tensor(math.nan))
        largest = y.abs().max().item()
        difference = (x - y).abs().max().item() if x.shape == y.shape else math.nan
        departs = not difference <= TOLERANCE[x.dtype] * largest  # so that NaN does
        numbers = (value if math.isfinite(value) else None for value in (difference, largest))
        rows.append(Stage(name, tuple(x.shape), *numbers, departs))
    if written:
        wrong = sum(a != b for a, b in zip(written, others)) + abs(len(written) - len(others))
        rows.append(Stage("greedy tokens", (len(written),), wrong, None, wrong > 0))
    return rows


def first_departure(rows: list[Stage]) -> str | None:
    return next((row.stage for row in rows if row.departs), None)


def render_parity(rows: list[Stage]) -> str:
    line = "{:<17} {:<18} {:>10} {:>10}{}\n".format
    text = line("# stage", "shape", "difference", "largest", "")
    for row in rows:
        numbers = [
            "-" if value is None else f"{value:.3g}" for value in (row.difference, row.largest)
        ]
        text += line(
            row.stage, " x ".join(map(str, row.shape)), *numbers, "  departs" * row.departs
        )
    return text + f"first to depart: {first_departure(rows) or 'none'}\n"
