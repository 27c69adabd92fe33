"""`nanos2t train`: from a config to the folder of a finished run.

    config -> manifests -> the transcriber to train, examples
        -> TrainingModule, LossStream -> train -> the models best/, last/ and average/

Beside the models, the folder of a run holds train.json (the config), the files of the tokenizer,
skipped.txt (what was not trained on), manifests.json (checksums of their items), log.jsonl
(metrics), state.pt (see state.py) and, while the run goes on, run.lock.
"""

import hashlib
import logging
import os
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import distributed

from nanos2t.fast.positional_conv import replace_positions
from nanos2t.files import format_json, read_json, write_text
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig, check_options, render_config
from nanos2t.training.distributed import join_processes, rank, world_size, wrap_distributed
from nanos2t.training.examples import Example, select_examples
from nanos2t.training.loop import LossStream, train
from nanos2t.training.losses import TrainingModule
from nanos2t.training.manifest import Item, read_manifest
from nanos2t.training.run_lock import LOCK_FILE, lock_run
from nanos2t.training.start import empty_like, prepare_transcriber
from nanos2t.training.state import average_states, steps_to_average
from nanos2t.training.validation import validate
from nanos2t.transcription.loading import choose_device
from nanos2t.transcription.transcriber import PROCESSOR_FILES, SpeechToText

log = logging.getLogger("nanos2t")

MODEL_FOLDERS = ("best", "last", "average")


def run_training(config: TrainConfig, resumed: bool = False) -> None:
    """Train a model on a manifest, from the start or from the state in config.output.

    ValueError, one line, for options, manifests, models or states that cannot be used, or if
    another process trains into the same folder.
    """
    check_options(vars(config), None)
    device = choose_device(config.device)
    join_processes(device)
    if rank() != 0:
        log.setLevel(logging.ERROR)  # the warnings of all processes are the same
    check_run(config, resumed)
    config = limit_workers(config)

    # One process has the lock for all that torchrun started.
    lock = lock_run(Path(config.output)) if rank() == 0 else nullcontext()
    with lock:
        train_on_manifest(config, device, resumed)


def train_on_manifest(config: TrainConfig, device: str, resumed: bool) -> None:
    """Do the run: read its inputs, make the steps, and write its models."""
    # The model to train
    output = Path(config.output)
    train_items = read_manifest(config.train)
    dev_items = read_manifest(config.dev) if config.dev else []
    stt = prepare_run(config, train_items, resumed)
    log.info("%s: the folder of the run, of %d steps", output, config.steps)

    # The examples to train and to validate on
    train_examples, skipped = choose_examples(stt, config, config.train, train_items)
    dev_examples = []
    if config.dev:
        dev_examples, dev_skipped = choose_examples(stt, config, config.dev, dev_items, decode=True)
        skipped += dev_skipped
    if rank() == 0:
        list_skipped(output / "skipped.txt", skipped)
        items = {config.train: train_items}
        if config.dev:
            items[config.dev] = dev_items
        note_manifests(output / "manifests.json", items)

    # The loop, and what it calls
    configure_model(stt.model, config, train_examples)
    module = TrainingModule(stt.model, config).to(device)
    losses = LossStream(stt, wrap_distributed(module, config), train_examples, config)
    validate_model = partial(validate, stt, dev_examples, config) if dev_examples else None
    save_model = partial(save_trained_model, stt, output)
    train(module, losses, config, output, validate_model, save_model, losses.progress)

    if config.average > 1 and rank() == 0:
        save_model("average", average_states(output, config))
    models = [name for name in MODEL_FOLDERS if (output / name).exists()]
    log.info("%s: done, %d steps; the models: %s", output, config.steps, ", ".join(models))


def check_run(config: TrainConfig, resumed: bool) -> None:
    """Raise ValueError for what so many processes or steps cannot do, or a missing state."""
    if config.accumulate % world_size() != 0:
        raise ValueError(
            f"--accumulate is {config.accumulate}, expected a multiple of {world_size()} processes"
        )
    num_states = len(steps_to_average(config))
    if num_states < config.average:
        raise ValueError(
            f"--average is {config.average}, expected {num_states} at most: so many states are "
            f"saved in {config.steps} steps, one every {config.save_every}"
        )
    if resumed and not (Path(config.output) / "state.pt").exists():
        raise ValueError(
            f"{config.output}: no state.pt to go on from, expected to begin without --resume"
        )


def limit_workers(config: TrainConfig) -> TrainConfig:
    """Return the config with no more workers than CPUs, with a warning if that is a change.

    Batches do not depend on the number of workers.
    """
    if hasattr(os, "sched_getaffinity"):
        num_cpus = len(os.sched_getaffinity(0))  # those that this process may use
    else:
        num_cpus = os.cpu_count() or 1
    if config.workers <= num_cpus:
        return config
    log.warning("--workers is %d, but there are %d CPUs: it is lowered", config.workers, num_cpus)
    return replace(config, workers=num_cpus)


def prepare_run(config: TrainConfig, items: list[Item], resumed: bool) -> SpeechToText:
    """Return the transcriber to train.

    Rank 0 creates the folder of a new run, with the files of the tokenizer. A resumed run takes the
    model in last/; the loop replaces its weights by those of state.pt.
    """
    output = Path(config.output)
    if resumed:
        config = replace(
            config,
            model=str(output / "last"),
            encoder=None,
            decoder=None,
            random="none",
            vocabulary="decoder",
        )

    # The other processes read what rank 0 has written.
    if rank() == 0:
        if not resumed:
            create_run_folder(config, output)
        stt = prepare_transcriber(config, items, output, writes=True)
    if world_size() > 1:
        distributed.barrier()
    if rank() != 0:
        stt = prepare_transcriber(config, items, output, writes=False)
    return stt


def create_run_folder(config: TrainConfig, output: Path) -> None:
    """Prepare the folder of a new run, which train.json marks.

    Raises ValueError if something else is in it.
    """
    has_model = (output / "last").exists() and (output / "log.jsonl").exists()
    if (output / "state.pt").exists() or has_model:
        raise ValueError(f"{output}: there is a run, go on with --resume {output}")
    is_used = any(path.name != LOCK_FILE for path in output.iterdir())
    if is_used and not (output / "train.json").exists():
        raise ValueError(f"{output}: not empty, expected a new folder for the run")

    # A run that died before its first state may have left some files.
    for name in ("skipped.txt", "manifests.json", *PROCESSOR_FILES):
        (output / name).unlink(missing_ok=True)
    write_text(output / "train.json", render_config(config))


def choose_examples(
    stt: SpeechToText, config: TrainConfig, manifest: str, items: list[Item], decode: bool = False
) -> tuple[list[Example], list[str]]:
    """Return the examples of a manifest, and lines for skipped.txt.

    Raises ValueError if no item can be used. Recordings for validation are decoded once now: one
    that is damaged would change the metrics.
    """
    log.info("%s: reading the recordings of %d lines", manifest, len(items))
    examples, lines = select_examples(stt, items, config, decode)
    if not examples:
        raise ValueError(f"{manifest}: no line can be trained on, the first: {lines[0]}")
    if len(examples) < len(items):
        log.warning(
            "%s: %d of %d lines are used, see skipped.txt", manifest, len(examples), len(items)
        )
    warn_about_languages(stt, manifest, items)
    return examples, [f"{manifest}: {line}\n" for line in lines]


def warn_about_languages(stt: SpeechToText, manifest: str, items: list[Item]) -> None:
    """Warn of items without a language if others have one: the model's default may be wrong."""
    num_without = sum(item.language is None for item in items)
    if stt.languages and 0 < num_without < len(items):
        default = stt.resolve_generation(None, {}).language
        log.warning(
            "%s: %d of %d lines have no language: that of the model is assumed, %s",
            manifest,
            num_without,
            len(items),
            default,
        )


def list_skipped(path: Path, lines: list[str]) -> None:
    """Write skipped.txt anew, each line once.

    Recordings that were found damaged before the run was resumed stay listed.
    """
    if path.exists():
        previous = path.read_text("utf-8").splitlines(keepends=True)
        lines = lines + [line for line in previous if ": damaged, skipped: " in line]
    write_text(path, "".join(dict.fromkeys(lines)))


def note_manifests(path: Path, manifests: dict[str, list[Item]]) -> None:
    """Write the checksums of the items in manifests, and warn of those that have changed.

    A run that is resumed plans its batches from the items that are there now.
    """
    noted = read_json(path) if path.exists() else {}
    checksums = {}
    for name, items in manifests.items():
        text = "\n".join(map(repr, items))
        checksums[name] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if noted.get(name, checksums[name]) != checksums[name]:
            log.warning(
                "%s: it has changed since the run began, which goes on with what it has now", name
            )
    write_text(path, format_json(checksums))


def configure_model(
    model: SpeechEncoderDecoder, config: TrainConfig, examples: list[Example]
) -> None:
    """Adapt a model to the run: how long a text may become, its precision, what is not trained."""
    # A model without a limit gets one of 3/2 of the longest text, and the start token.
    generation = model.generation
    if generation.max_length is None and generation.max_new_tokens is None:
        longest = max(len(example.tokens) for example in examples)
        limit = min(longest * 3 // 2, model.decoder.config.max_positions)
        model.generation = replace(generation, max_length=limit + 1)

    if config.bfloat16:
        # In bfloat16 on a CPU, the core's convolution may return wrong numbers.
        replace_positions(model.encoder)
    if config.freeze_feature_encoder:
        model.freeze_feature_encoder()


def save_trained_model(stt: SpeechToText, output: Path, name: str, weights: dict) -> None:
    """Write the weights of a TrainingModule as a model folder, output/name, at rank 0."""
    if rank() != 0:
        return
    prefix = "model."  # what else is trained, as the output layer for CTC, is not kept
    state = {}
    for key, weight in weights.items():
        if key.startswith(prefix):
            state[key.removeprefix(prefix)] = weight
    model = empty_like(stt.model)
    model.load_state_dict(state, assign=True)
    trained = SpeechToText(model, stt.tokenizer, stt.sample_rate, stt.normalise, folder=output)
    trained.save_pretrained(output / name)
