"""nanos2t: a minimal, from-scratch implementation of Hugging Face's SpeechEncoderDecoderModel.

`nanos2t.load()` gives a transcriber, `nanos2t.SpeechEncoderDecoder` is the model by itself.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from nanos2t.decoder import DecoderConfig
    from nanos2t.generation_config import GenerationConfig
    from nanos2t.model import SpeechEncoderDecoder
    from nanos2t.transcription.transcriber import SpeechToText
    from nanos2t.wav2vec2 import EncoderConfig

__all__ = ["DecoderConfig", "EncoderConfig", "GenerationConfig", "SpeechEncoderDecoder", "load"]
__version__ = "0.1.0"

# The module of each public class. It is imported when the class is first used, not before: torch
# takes seconds, and `nanos2t --help` does not need it.
MODULES = {
    "DecoderConfig": "nanos2t.decoder",
    "EncoderConfig": "nanos2t.wav2vec2",
    "GenerationConfig": "nanos2t.generation_config",
    "SpeechEncoderDecoder": "nanos2t.model",
}


def __getattr__(name: str) -> object:
    """Import a class or a file of the package on first use: Python calls this for missing names."""
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)

    # `nanos2t.wav2vec2.attend` needs no import of its own either.
    if find_spec(f"nanos2t.{name}"):
        return import_module(f"nanos2t.{name}")
    raise AttributeError(f"module 'nanos2t' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, whether they were imported yet or not."""
    return sorted({*globals(), *__all__})


def load(
    name_or_path: str | os.PathLike | None = None,
    *,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | str" = "float32",
    fast: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
) -> "SpeechToText":
    """Load a transcriber: a model with its tokenizer and the sample rate of its audio.

    By default every module of the model is one of the core's, as its source shows it.

    name_or_path: a folder in transformers' layout or a hub id; None is the bundled model. A folder
        without tokenizer files gives token ids instead of text; one without
        preprocessor_config.json is taken to want normalised audio at 16,000 Hz.
    device: "cpu", "cuda", "cuda:1", "mps", or "auto" for the machine's GPU if it has one.
    dtype: float32, float64, bfloat16 or float16 as torch dtypes or their names; "int8", which is
        for CPUs and always fast; or "auto", the fastest of the device.
    fast: run on the kernels of nanos2t/fast where they apply. On a CPU the model cannot be trained
        then, and one in int8 cannot be saved either.
    revision: the branch, tag or commit of a hub id.
    local_files_only: use what was downloaded before and no network.

    Raises ValueError, in one line, for what is missing, broken or not supported.
    """
    import torch

    from nanos2t.fast.dtypes import check_fast_dtype, choose_fast_dtype
    from nanos2t.fast.optimise import optimise_model
    from nanos2t.model import SpeechEncoderDecoder
    from nanos2t.transcription import loading

    # Check what the machine can do before anything is downloaded or read.
    device = loading.choose_device(device)
    dtype = loading.choose_dtype(dtype)
    if dtype == "auto":
        dtype = choose_fast_dtype(device)
    check_fast_dtype(dtype, device)

    # A fast model is converted below, one weight at a time.
    is_fast = fast or dtype == torch.int8
    weights_dtype = None if is_fast else dtype
    folder = loading.find_model_folder(name_or_path, revision, local_files_only)
    model = SpeechEncoderDecoder.from_pretrained(folder, dtype=weights_dtype, device=device)

    # Without these lines the model is the core as written.
    if is_fast:
        model = optimise_model(model, dtype)

    # Tokenizer, sample rate and languages are in the same folder.
    return loading.from_folder(model, folder)
