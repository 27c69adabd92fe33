"""Find a model on disk and make a transcriber of it and the rest of its folder.

`nanos2t.load` calls the functions of this file in order. They choose the device and the dtype, and
read the tokenizer, the sample rate and the languages.
"""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nanos2t import checkpoint, files
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.transcription import vocabularies
from nanos2t.transcription.segmentation import Limits
from nanos2t.transcription.transcriber import SpeechToText

log = logging.getLogger("nanos2t")

BUNDLED = Path(__file__).parents[1] / "assets" / "spoken-numbers"

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str | torch.device) -> str:
    """Return a device of this machine: "cpu", "mps", or "cuda:0" and so on.

    name: one of these, "cuda" for a GPU, or "auto" for a GPU if there is one. Under torchrun each
    process has its own GPU. Raises ValueError for a device that is not there.
    """
    # The devices of this machine, the preferred ones first.
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices = list(gpus)
    if torch.backends.mps.is_available():
        devices.append("mps")
    devices.append("cpu")

    # The rank among the processes of this machine picks the GPU.
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpu_number = local_rank % max(1, len(gpus))

    device = str(name)
    if device == "auto":
        device = devices[gpu_number]
    elif device == "cuda":
        device = f"cuda:{gpu_number}"
    if device not in devices:
        raise ValueError(
            f"device is {str(name)[:60]!r}, expected one of auto, {', '.join(devices)}"
        )
    return device


def choose_dtype(name: str | torch.dtype) -> torch.dtype | str:
    """Return the torch dtype of a name or of itself: one of DTYPES or int8; "auto" stays "auto".

    Raises ValueError for another one.
    """
    dtypes = {**DTYPES, "int8": torch.int8, "auto": "auto"}
    dtype = dtypes.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"dtype is {str(name)[:60]!r}, expected one of {', '.join(dtypes)}")
    return dtype


@dataclass(frozen=True)
class Preprocessor:
    """How audio becomes the model's input: its sample rate in Hz, and whether it is normalised.

    limits: how much audio the model processes at once.
    """

    sample_rate: int = 16_000
    normalise: bool = True
    limits: Limits = Limits()


def read_preprocessor(folder: Path) -> Preprocessor:
    """Read how a model wants its audio; without a file, the defaults of transformers.

    The file is preprocessor_config.json, or processor_config.json, where the same fields are in
    "feature_extractor". Two fields are ours: of `chunk_length` seconds, which transformers has for
    Whisper, and of `chunk_sounds` sounds is the longest chunk.

    Raises ValueError that names the file and the field that is wrong.
    """
    # Many older checkpoints are for 16 kHz and have no file that says so.
    path = find_preprocessor_file(folder)
    if path is None:
        log.warning(
            "%s: no preprocessor_config.json: 16000 Hz and normalisation are assumed", folder
        )
        return Preprocessor()
    config = files.read_json(path)
    if isinstance(config.get("feature_extractor"), dict):
        config = config["feature_extractor"]

    # `type` instead of isinstance: Python counts True as a number.
    rate = config.get("sampling_rate", 16_000)
    if type(rate) is not int or not 1000 <= rate <= 10**6:
        raise wrong_field(path, "sampling_rate", rate, "1000 to 1000000")

    normalise = config.get("do_normalize", True)
    if type(normalise) is not bool:
        raise wrong_field(path, "do_normalize", normalise, "true or false")

    seconds = config.get("chunk_length", Limits.seconds)
    if type(seconds) not in (int, float) or not 1 <= seconds <= 3600:
        raise wrong_field(path, "chunk_length", seconds, "1 to 3600")

    sounds = config.get("chunk_sounds", Limits.sounds)
    if type(sounds) is not int or sounds < 1:
        raise wrong_field(path, "chunk_sounds", sounds, "1 or more")
    return Preprocessor(rate, normalise, Limits(seconds, sounds))


def find_preprocessor_file(folder: Path) -> Path | None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            return folder / name
    return None


def wrong_field(path: Path, name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{path}: {name} is {value!r}, expected {expected}")


def find_model_folder(
    name: str | os.PathLike | None, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """Return the folder of a model, downloaded if need be; None is the bundled one.

    Raises ValueError for an empty name, and as checkpoint.find_folder does.
    """
    if name == "":
        raise ValueError("the name of the model is '', expected a folder or hub id")
    if name is None:
        name = BUNDLED
    return checkpoint.find_folder(name, revision, local_files_only)


def from_folder(model: SpeechEncoderDecoder, folder: Path) -> SpeechToText:
    """Make a transcriber of a model and the tokenizer, sample rate and languages in its folder.

    Raises ValueError that names the file that is broken.
    """
    # A wrong default would fail only in the first transcription.
    check_generation(model, folder)

    # Without a tokenizer the model works, but has no text. Its languages may be in the tokenizer.
    tokenizer = vocabularies.load_tokenizer(folder)
    if tokenizer is None:
        log.warning("%s: no tokenizer files: token ids instead of text", folder)
    elif model.generation.lang_to_id is None and tokenizer.languages:
        language_ids = find_language_ids(model, tokenizer)
        model.generation = replace(model.generation, lang_to_id=language_ids)

    # How the audio is prepared is in a file of its own.
    preprocessor = read_preprocessor(folder)
    return SpeechToText(
        model,
        tokenizer,
        preprocessor.sample_rate,
        preprocessor.normalise,
        preprocessor.limits,
        folder,
    )


def find_language_ids(model: SpeechEncoderDecoder, tokenizer: Tokenizer) -> dict[str, int]:
    """Return the languages of a model whose files do not name them, and their token ids.

    mBART-50's vocabulary has more languages than its speech models were trained on: only their
    model cards tell which.
    """
    if model.decoder.config.vocab_size == vocabularies.MBART50_VOCAB_SIZE:
        forced_id = model.generation.forced_bos_token_id
        if forced_id in vocabularies.MODEL_CARD_LANGUAGES:
            return vocabularies.MODEL_CARD_LANGUAGES[forced_id]
    return tokenizer.languages


def check_generation(model: SpeechEncoderDecoder, folder: Path) -> None:
    """Check the options of generation in a folder; the ValueError names file, option and value."""
    path = folder / "generation_config.json"
    if not path.exists():
        path = folder / "config.json"
    try:
        model.generation.validate(model.decoder.config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
