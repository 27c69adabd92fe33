"""The command line: `nanos2t`, or `python -m nanos2t`.

Text goes to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed, 2 usage, 3 the
model cannot be loaded, 130 interrupted. Torch is imported by what needs a model, so that --help is quick.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nanos2t import __version__
from nanos2t.apps.formats import FORMATS, render

if TYPE_CHECKING:
    from nanos2t.apps.transcribe import Result, SpeechToText

FAILED, USAGE, NO_MODEL, INTERRUPTED = 1, 2, 3, 130


class Stop(Exception):
    """Ends the program: a line for stderr, or "" for none, and the exit code."""

    def __init__(self, message: object, code: int):
        super().__init__(str(message))
        self.code = code


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and leaves the exit to `main`."""

    def error(self, message: str) -> NoReturn:
        raise Stop(f"{message} ({self.prog} --help tells more)", USAGE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        tell("")
        raise Stop(message or "", status)


def say(message: object) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        with suppress(OSError):
            print("nanos2t:", " ".join(str(message).split()), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Text on stdout, at once. Characters that it has no bytes for are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at its end
        closed = isinstance(error, BrokenPipeError)  # by a reader that has enough, as `head`
        raise Stop("" if closed else f"stdout: {error.strerror}", FAILED) from None


def count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 1000")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nanos2t", description="Speech in, text out.")
    parser.add_argument("--version", action="version", version=f"nanos2t {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="what the bundled model hears in the bundled recording")
    demo.set_defaults(run=run_demo)
    info = commands.add_parser("info", help="what a model is: sizes, languages, ids")
    info.set_defaults(run=run_info)
    info.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    transcribe = commands.add_parser("transcribe", help="audio files to text, one line each")
    transcribe.set_defaults(run=run_transcribe)
    add = transcribe.add_argument
    add("files", nargs="+", metavar="FILE", help="audio files, folders of them, or - for stdin")
    add("--model", help="folder or hub id; default: the bundled model (spoken numbers)")
    add("--language", help="the language to write, one that `nanos2t info` lists")
    add("--num-beams", type=count, metavar="N", help="hypotheses kept at a time; default: the model's own")
    add(
        "--words",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="find when each word is said (json)",
    )
    add("--format", choices=tuple(FORMATS), default="txt", help="default: %(default)s")
    add("--output", type=Path, metavar="DIR", help="write STEM.FORMAT files there; text still goes to stdout")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ..., or auto; default: %(default)s")
    add("--dtype", default="float32", help="float32, bfloat16 ...; default: %(default)s")
    add("--batch-size", type=count, default=8, metavar="N", help="files at a time; default: %(default)s")
    add("--quiet", action="store_true", help="no progress bar, no warnings")
    return parser


def load(name: str | None, device: str = "cpu", dtype: str = "float32") -> "SpeechToText":
    """The transcriber; Stop with 2 for a device or dtype that is none, with 3 for what cannot be loaded."""
    from nanos2t.apps import transcribe

    try:
        where = {"device": transcribe.choose_device(device), "dtype": transcribe.choose_dtype(dtype)}
    except ValueError as error:
        raise Stop(f"--{error}", USAGE) from None
    try:
        return transcribe.load(name, **where)
    except (OSError, RuntimeError, ValueError) as error:
        raise Stop(error, NO_MODEL) from None


def find_files(names: list[str]) -> tuple[list[str], list[ValueError]]:
    """The inputs, the audio files of a folder in its place, by name; an error for each folder without any."""
    if names.count("-") > 1:
        raise Stop("- is given more than once, but stdin can be read once", USAGE)
    files, errors = [], []
    for name in names:
        if not os.path.isdir(name):
            files.append(name)
            continue
        from nanos2t.apps.sound_files import SUFFIXES

        found = [path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES]
        found = sorted(str(path) for path in found if os.path.isfile(path))
        files += found
        if not found:
            expected = " ".join(sorted(SUFFIXES))
            errors.append(ValueError(f"{name}: no audio in this folder, expected {expected}"))
    return files, errors


def output_paths(files: list[str], folder: Path, format: str) -> list[Path]:
    """Where each input's file goes. Stop if two would be the same, or nothing can be written there."""
    paths = [folder / f"{'stdin' if name == '-' else Path(name).stem}.{format}" for name in files]
    seen: dict[Path, str] = {}
    for path, name in zip(paths, files, strict=True):
        if path in seen:
            raise Stop(f"--output: {seen[path]} and {name} would both be written to {path}", USAGE)
        seen[path] = name
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        raise Stop(f"--output {folder}: {nearest} is not a folder that can be written to", USAGE)
    return paths


def write(path: Path, text: str) -> None:
    """Beside, then rename: under the final name stands a whole file or none."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            part.unlink()


def finish(name: str, path: Path | None, outcome: "Result | ValueError", format: str) -> bool:
    """Write and print what was heard; if anything fails, say it and return False."""
    if isinstance(outcome, ValueError):
        say(outcome if str(outcome).startswith(f"{name}: ") else f"{name}: {outcome}")
        return False
    try:
        if path is not None:
            write(path, render(outcome, format, name))
        return True
    except ValueError as error:
        say(error)
        return False
    finally:
        tell(render(outcome, "txt" if path else format, name))


def prepare(options: argparse.Namespace) -> tuple["SpeechToText", dict]:
    """The transcriber, and how to call it, checked. Stop for a language that it does not write."""
    stt = load(options.model, options.device, options.dtype)
    how = {"num_beams": options.num_beams} if options.num_beams else {}
    try:
        stt.options(options.language, how)
    except ValueError as error:
        raise Stop(error, USAGE) from None
    try:
        stt.model.generation.need("decoder_start_token_id")
    except ValueError as error:
        raise Stop(f"{options.model}: {error}", NO_MODEL) from None
    if options.output:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(f"--output {options.output}: {error.strerror}", USAGE) from None
    return stt, how | {"language": options.language, "words": options.words, "return_errors": True}


def run_transcribe(options: argparse.Namespace) -> int:
    files, errors = find_files(options.files)
    paths = output_paths(files, options.output, options.format) if options.output else [None] * len(files)
    for error in errors:
        say(error)
    if not files:
        return FAILED
    logging.getLogger("nanos2t").setLevel(logging.ERROR if options.quiet else logging.NOTSET)
    stt, how = prepare(options)
    from tqdm import tqdm

    def warn(message: Warning, *rest) -> None:
        with tqdm.external_write_mode():
            say(f"warning: {message}")

    warnings.showwarning = warn
    warnings.simplefilter("ignore" if options.quiet else "always", UserWarning)
    stdin = sys.stdin.buffer if sys.stdin else b""
    outcomes = stt.transcribe_many(
        (stdin if name == "-" else name for name in files), options.batch_size, **how
    )
    failed = len(errors)
    hidden = options.quiet or not (sys.stderr and sys.stderr.isatty())
    with tqdm(total=len(files), unit="file", disable=hidden) as bar:
        for name, path, outcome in zip(files, paths, outcomes, strict=True):
            with tqdm.external_write_mode():
                failed += not finish(name, path, outcome, options.format)
            bar.update()
    return FAILED if failed else 0


def run_demo(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    stt = load(None)
    from nanos2t.apps.transcribe import BUNDLED

    sample = BUNDLED.parent / "sample.wav"
    say(f"{sample}: spoken digits, written in each language of the bundled model")
    width = max(map(len, stt.languages), default=0)
    for language in stt.languages or (None,):
        try:
            tell(f"{language or '':>{width}}  {stt.transcribe(sample, language=language)}\n")
        except ValueError as error:
            raise Stop(error, FAILED) from None
    say(f"{time.perf_counter() - started:.1f} s, loading included")
    return 0


def run_info(options: argparse.Namespace) -> int:
    stt = load(options.model)
    model, families = stt.model, getattr(stt.model, "families", ("", ""))
    generation = {name: value for name, value in vars(model.generation).items() if value is not None}
    languages = generation.pop("lang_to_id", None) or {}
    parts = []
    for part, family in zip((model.encoder, model.decoder), families, strict=True):
        sizes = {name: value for name, value in vars(part.config).items() if name != "training"}
        parts.append(f"{family}: " + ", ".join(f"{name}={value}" for name, value in sizes.items()))
    lines = {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "encoder": parts[0],
        "decoder": parts[1],
        "audio": f"{stt.sample_rate} Hz, {'normalised' if stt.normalise else 'as it is'}",
        "tokenizer": "none: text is token ids" if stt.tokenizer is None else "yes",
        "languages": ", ".join(languages) or "one, nothing to choose",
        "generation": ", ".join(f"{name}={value}" for name, value in generation.items()),
    }
    for name, value in lines.items():
        tell(f"{name:<10}  {value}\n")
    return 0


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM stops the program as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        with terminable(), warnings.catch_warnings():
            options = build_parser().parse_args(arguments)
            return options.run(options)
    except Stop as stop:
        if str(stop):
            say(stop)
        return stop.code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
