"""Compare our model with transformers' (HF's) stage by stage on one utterance (`nanos2t parity`).

    run_ours, run_theirs: the same stages of both models -> compare_models -> render_parity

Shapes: L samples, T tokens.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from nanos2t import files, pretrained
from nanos2t.inspection.observer import observe_stages
from nanos2t.model import SpeechEncoderDecoder

# The largest difference that is only rounding, as a share of a stage's largest value.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}

# How many tokens greedy search writes at most.
MAX_NEW_TOKENS = 20


@dataclass(frozen=True)
class Stage:
    """How a stage of our model differs from HF's. The greedy tokens of both are the last stage.

    difference: the largest difference of two numbers, or how many tokens differ. It is None if HF
    has no such tensor, or one of another shape, or if a number is not finite.
    largest: the largest absolute value of HF's tensor. departs: whether the difference is too
    large.
    """

    stage: str
    shape: tuple[int, ...]
    difference: float | None
    largest: float | None
    departs: bool


@contextmanager
def theirs_at_work(action: str) -> Iterator[None]:
    """Keep transformers quiet in the `with` block; its errors become a ValueError of one line."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # transformers may raise anything
        reason = f"{type(error).__name__}: {files.first_line(error)[:200]}"
        version = transformers.__version__
        raise ValueError(f"transformers {version} {action} ({reason})") from None


def load_theirs(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load HF's model from a folder, in eval mode. ValueError, in a line, if HF cannot load it."""
    from transformers import SpeechEncoderDecoderModel

    with theirs_at_work(f"cannot load {folder}"):
        model, keys = SpeechEncoderDecoderModel.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
        if has_meta_tensors(model):
            # TrOCR's table of sinusoidal positions is in no file: a new model computes it.
            loaded = model
            model = SpeechEncoderDecoderModel(loaded.config).to(dtype)
            model.load_state_dict(loaded.state_dict())
            model.generation_config = loaded.generation_config

    if keys["missing_keys"]:
        names = ", ".join(sorted(keys["missing_keys"]))
        pretrained.log.warning("transformers drew at random: %s", names)
    return model.eval()


def has_meta_tensors(model: nn.Module) -> bool:
    """Return whether a module holds a tensor without numbers that is not a parameter."""
    for module in model.modules():
        if any(getattr(value, "is_meta", False) for value in vars(module).values()):
            return True
    return False


@torch.no_grad()
def run_ours(
    model: SpeechEncoderDecoder, input_values: Tensor, tokens: Tensor
) -> dict[str, Tensor]:
    """Run our model on input_values (1, L) and decoder input (1, T), and return its stages."""
    with observe_stages(model) as stages:
        model(input_values, decoder_input_ids=tokens)
    return stages


@torch.no_grad()
def run_theirs(theirs: nn.Module, input_values: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Run HF's model on input_values (1, L) and decoder input (1, T), and return its stages."""
    with observe_stages(theirs) as stages:
        theirs(input_values=input_values, decoder_input_ids=tokens, use_cache=False)
    return stages


def write_greedily(
    writer: nn.Module, model: SpeechEncoderDecoder, input_values: Tensor
) -> list[int]:
    """Return the tokens (T,) that greedy search writes with our model or HF's as `writer`.

    Both start and stop at the ids of our `model`. Without a start token, nothing is written: [].
    """
    # All ids, and nothing else, come from our configuration.
    options = {}
    for name, value in vars(model.generation).items():
        if name.endswith("_token_id") and value is not None:
            options[name] = value
    if "decoder_start_token_id" not in options:
        return []
    return writer.generate(
        input_values,
        num_beams=1,
        num_return_sequences=1,
        do_sample=False,
        max_new_tokens=min(MAX_NEW_TOKENS, model.decoder.config.max_positions),
        **options,
    )[0].tolist()


def make_decoder_input(model: SpeechEncoderDecoder, written: list[int]) -> Tensor:
    """Return the written tokens as decoder input (1, T), or a few ids if nothing was written.

    It ends before the first pad, because some decoders give no position to a pad.
    """
    config = model.decoder.config
    if not written:
        written = list(range(min(8, config.vocab_size)))

    # The start token stays even if it is the pad.
    pad = model.generation.pad_token_id
    start, *rest = written
    tokens = [start, *takewhile(lambda token: token != pad, rest)]
    return torch.tensor([tokens[: config.max_positions]])


def compare_models(
    model: SpeechEncoderDecoder, theirs: nn.Module, input_values: Tensor
) -> list[Stage]:
    """Compare every stage of both models for one utterance (1, L), and the tokens they write.

    ValueError, in one line, if HF cannot run the model.
    """
    # Both decoders read the same tokens: what our model writes.
    written = write_greedily(model, model, input_values)
    tokens = make_decoder_input(model, written)
    with theirs_at_work("cannot run this model"):
        their_written = write_greedily(theirs, model, input_values)
        their_stages = run_theirs(theirs, input_values, tokens)

    rows = []
    for name, ours in run_ours(model, input_values, tokens).items():
        rows.append(compare_tensors(name, ours, their_stages.get(name)))
    if written:
        rows.append(compare_tokens(written, their_written))
    return rows


def compare_tensors(name: str, ours: Tensor, theirs: Tensor | None) -> Stage:
    """Compare one stage. Whatever cannot be compared departs."""
    difference = math.nan
    largest = math.nan
    if theirs is not None:
        largest = theirs.abs().max().item()
        if theirs.shape == ours.shape:
            difference = (ours - theirs).abs().max().item()

    # A comparison with NaN is False, so that NaN never agrees.
    agrees = difference <= TOLERANCE[ours.dtype] * largest
    return Stage(name, tuple(ours.shape), finite(difference), finite(largest), not agrees)


def finite(value: float) -> float | None:
    """Return the value, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def compare_tokens(ours: list[int], theirs: list[int]) -> Stage:
    """Count the places where two lists of tokens differ, or where only one has a token."""
    num_different = sum(a != b for a, b in zip(ours, theirs))
    num_different += abs(len(ours) - len(theirs))
    return Stage("greedy tokens", (len(ours),), num_different, None, num_different > 0)


def first_departure(rows: list[Stage]) -> str | None:
    """Return the name of the first stage that departs, None if all agree."""
    return next((row.stage for row in rows if row.departs), None)


def render_parity(rows: list[Stage]) -> str:
    """Return the comparison as a table with one line for each stage, and the verdict."""
    lines = [format_row("# stage", "shape", "difference", "largest")]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        line = format_row(
            row.stage, shape, format_number(row.difference), format_number(row.largest)
        )
        if row.departs:
            line += "  departs"
        lines.append(line)
    lines.append(f"first to depart: {first_departure(rows) or 'none'}")
    return "\n".join(lines) + "\n"


def format_row(stage: str, shape: str, difference: str, largest: str) -> str:
    return f"{stage:<17} {shape:<18} {difference:>10} {largest:>10}"


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
