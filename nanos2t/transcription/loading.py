"""Shared by tests."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from nanos2t import checkpoint, files
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription import segmentation as segment
from nanos2t.transcription import vocabularies
from nanos2t.transcription.transcriber import SpeechToText, log

BUNDLED = Path(__file__).parents[1] / "assets" / "spoken-numbers"


DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


def choose_device(name: str | torch.device) -> str:
    """A device of this machine, "auto" for its GPU if it has one; ValueError if it is not there."""
    possible = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    own = int(os.environ.get("LOCAL_RANK", 0)) % max(
        1, len(possible)
    )  # torchrun: a GPU for each process
    possible += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    found = {"auto": possible[own % len(possible)], "cuda": f"cuda:{own}"}.get(str(name), str(name))
    if found not in possible:
        raise ValueError(f"device is {str(name)!r}, expected one of auto, {', '.join(possible)}")
    return found


def choose_dtype(name: str | torch.dtype) -> torch.dtype | str:
    """float32 or "float32", as any of DTYPES, or int8, or "auto" itself; ValueError for another."""
    known = DTYPES | {"int8": torch.int8, "auto": "auto"}
    if (dtype := known.get(str(name).removeprefix("torch."))) is None:
        raise ValueError(f"dtype is {str(name)!r}, expected one of {', '.join(known)}")
    return dtype


def read_preprocessor(folder: Path) -> tuple[int, bool, segment.Limits]:
    """Samples per second, whether the model wants them normalised, and how much it hears at a time: of the
    seconds `chunk_length`, `chunk_sounds` sounds. Without a file, 16000, True and the defaults of Limits."""
    names = "preprocessor_config.json", "processor_config.json"
    file = next((folder / name for name in names if (folder / name).exists()), None)
    config = files.read_json(file) if file else {}
    if file is None:
        log.warning(
            "%s: no preprocessor_config.json: 16000 Hz and normalisation are assumed", folder
        )
    config = (
        inner if isinstance(inner := config.get("feature_extractor"), dict) else config
    )  # in the second
    rate, normalise = config.get("sampling_rate", 16000), config.get("do_normalize", True)
    seconds, sounds = config.get("chunk_length", 30.0), config.get("chunk_sounds", 10**9)
    for name, value, fits, expected in (
        ("sampling_rate", rate, type(rate) is int and 1000 <= rate <= 10**6, "1000 to 1000000"),
        ("do_normalize", normalise, type(normalise) is bool, "true or false"),
        (
            "chunk_length",
            seconds,
            type(seconds) in (int, float) and 1 <= seconds <= 3600,
            "1 to 3600",
        ),
        ("chunk_sounds", sounds, type(sounds) is int and sounds >= 1, "1 or more"),
    ):
        if not fits:
            raise ValueError(f"{file}: {name} is {value!r}, expected {expected}")
    return rate, normalise, segment.Limits(seconds, sounds)


def find_model_folder(
    name: str | Path | None, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder of a model, None: the bundled one; ValueError as pretrained.find_folder, and for no name."""
    if name == "":
        raise ValueError("the name of the model is '', expected a folder or hub id")
    return checkpoint.find_folder(BUNDLED if name is None else name, revision, local_files_only)


def from_folder(model: SpeechEncoderDecoder, folder: Path) -> SpeechToText:
    """A model with the rest of its folder: tokenizer, rate, and the languages that its files do not name."""
    check_generation(model, folder)
    tokenizer, generation = vocabularies.load_tokenizer(folder), model.generation
    if tokenizer is None:
        log.warning("%s: no tokenizer files: token ids instead of text", folder)
    elif generation.lang_to_id is None and tokenizer.languages:
        official = model.decoder.config.vocab_size == vocabularies.OFFICIAL
        card = vocabularies.CARDS.get(generation.forced_bos_token_id) if official else None
        model.generation = replace(generation, lang_to_id=card or tokenizer.languages)
    return SpeechToText(model, tokenizer, *read_preprocessor(folder), folder)


def check_generation(model: SpeechEncoderDecoder, folder: Path) -> None:
    """Check the options of generation in a folder; ValueError names file, option and value."""
    path = folder / "generation_config.json"
    if not path.exists():
        path = folder / "config.json"
    try:
        model.generation.validate(model.decoder.config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
