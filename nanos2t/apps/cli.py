"""The command line: `nanos2t`, or `python -m nanos2t`.

Text goes to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed, 2 usage, 3 the model
cannot be loaded, 130 interrupted.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

from nanos2t import __version__

AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
FORMATS = ("txt", "srt", "vtt", "tsv", "json")
FAILED, USAGE, NO_MODEL, INTERRUPTED = 1, 2, 3, 130


class Stop(Exception):
    """Ends the program with a line on stderr and an exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def say(message: object) -> None:
    """One line on stderr."""
    print("nanos2t:", " ".join(str(message).split()), file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nanos2t", description="Speech in, text out.")
    parser.add_argument("--version", action="version", version=f"nanos2t {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="what the bundled model hears in the bundled recording, in each language")
    info = commands.add_parser("info", help="what a model is: sizes, languages, ids")
    info.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    transcribe = commands.add_parser("transcribe", help="audio files to text, one line each")
    transcribe.add_argument("files", nargs="+", metavar="FILE", help="audio files, folders of them, or - for stdin")
    transcribe.add_argument("--model", help="folder or hub id; default: the bundled model (spoken numbers)")
    transcribe.add_argument("--language", help="the language to write, one that `nanos2t info` lists")
    transcribe.add_argument("--num-beams", type=int, help="hypotheses kept at a time; default: the checkpoint's")
    transcribe.add_argument("--words", action="store_true", help="find when each word is said")
    transcribe.add_argument("--format", choices=FORMATS, default="txt")
    transcribe.add_argument("--output", type=Path, metavar="DIR", help="write STEM.FORMAT files there")
    transcribe.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ..., auto; default: %(default)s")
    transcribe.add_argument("--dtype", default="float32", help="float32, bfloat16 ...; default: %(default)s")
    transcribe.add_argument("--batch-size", type=int, default=8, help="files at a time; default: %(default)s")
    transcribe.add_argument("--quiet", action="store_true", help="no progress bar, no warnings")
    return parser


def load(name: str | None, device: str = "cpu", dtype: str = "float32"):
    """The transcriber, or Stop with 2 for a device or dtype that is none, with 3 for what cannot be loaded."""
    import torch

    from nanos2t.apps import transcribe

    try:
        kind = torch.device("cpu" if device == "auto" else device).type
    except RuntimeError:
        raise Stop(f"--device {device}: no such device", USAGE) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise Stop(f"--device {device}: no CUDA device on this machine", USAGE)
    if dtype not in transcribe.DTYPES:
        raise Stop(f"--dtype {dtype}: expected one of {', '.join(transcribe.DTYPES)}", USAGE)
    try:
        return transcribe.load(name, device=device, dtype=dtype)
    except ValueError as error:
        raise Stop(str(error), NO_MODEL) from None


def find_files(names: list[str], fail) -> list[str]:
    """Folders are replaced by the audio files in them, by name; one without any is a failed input."""
    found = []
    for name in names:
        if name != "-" and os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.suffix.lower() in AUDIO)
            if not inside:
                fail(name, ValueError(f"{name}: no audio files in this folder"))
            found += inside
        else:
            found.append(name)
    return found


def output_paths(files: list[str], folder: Path, format: str) -> list[Path]:
    """Where each input's file goes; Stop if two inputs would write the same one."""
    paths = [folder / f"{'stdin' if name == '-' else Path(name).stem}.{format}" for name in files]
    seen: dict[Path, str] = {}
    for path, name in zip(paths, files):
        if path in seen:
            raise Stop(f"{seen[path]} and {name} would both write {path}", USAGE)
        seen[path] = name
    return paths


def write(path: Path, text: str) -> None:
    """Beside, then rename: under the final name stands a whole file or none."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None


def run_transcribe(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nanos2t.apps.formats import render

    if options.batch_size < 1:
        raise Stop(f"--batch-size {options.batch_size}: expected at least 1", USAGE)
    stt = load(options.model, options.device, options.dtype)
    generation = {} if options.num_beams is None else {"num_beams": options.num_beams}
    try:
        stt.options(options.language, generation)
    except ValueError as error:
        raise Stop(str(error), USAGE) from None
    failed = []

    def fail(source: object, error: ValueError) -> None:
        failed.append(source)
        say(error)

    files = find_files(options.files, fail)
    paths = output_paths(files, options.output, options.format) if options.output else [None] * len(files)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    if options.quiet:
        warnings.simplefilter("ignore")
    bar = tqdm(total=len(files), unit="file", disable=True if options.quiet or not sys.stderr.isatty() else None)
    done = iter(
        stt.transcribe_many(
            (sys.stdin.buffer if name == "-" else name for name in files),
            options.batch_size,
            language=options.language,
            words=options.words,
            on_error=fail,
            **generation,
        )
    )
    left = list(zip(files, paths))
    for result in done:
        while left and (left[0][0] in failed or (left[0][0] == "-" and sys.stdin.buffer in failed)):
            left.pop(0)
            bar.update()
        name, path = left.pop(0)
        bar.update()
        text = render(result, options.format, name)
        if path is not None:
            try:
                write(path, text)
            except ValueError as error:
                fail(name, error)
                continue
            text = render(result, "txt", name)
        bar.clear()
        sys.stdout.write(text)
        sys.stdout.flush()
    bar.close()
    return FAILED if failed else 0


def run_demo(options: argparse.Namespace) -> int:
    from nanos2t.apps import transcribe

    started = time.perf_counter()
    stt = load(None)
    sample = transcribe.BUNDLED.parent / "sample.wav"
    print(f"{sample.name}: English digits, spoken by a synthetic voice")
    width = max(map(len, stt.languages))
    for language in stt.languages:
        print(f"{language:>{width}}  {stt.transcribe(sample, language=language)}")
    print(f"{len(stt.languages)} languages in {time.perf_counter() - started:.2f} s, loading included")
    return 0


def run_info(options: argparse.Namespace) -> int:
    stt = load(options.model)
    model = stt.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    generation = {name: value for name, value in vars(model.generation).items() if value is not None}
    languages = generation.pop("lang_to_id", {})
    print(f"parameters  {parameters:,}")
    print(f"encoder     {model.encoder.config}")
    print(f"decoder     {model.decoder.config}")
    print(f"audio       {stt.sample_rate} Hz, {'normalised' if stt.normalise else 'as it is'}")
    print(f"tokenizer   {'none: text is token ids' if stt.tokenizer is None else 'yes'}")
    print(f"languages   {', '.join(languages) or 'one'}")
    print("generation  " + ", ".join(f"{name}={value}" for name, value in generation.items()))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    warnings.showwarning = lambda message, *rest, **more: say(f"warning: {message}")
    options = build_parser().parse_args(arguments)
    try:
        return {"demo": run_demo, "info": run_info, "transcribe": run_transcribe}[options.command](options)
    except Stop as stop:
        say(stop)
        return stop.code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our text went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
