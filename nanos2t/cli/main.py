"""The command line: `nanos2t`, or `python -m nanos2t`.
Text goes to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed, 2 usage, 3 the
model cannot be loaded, 130 interrupted. What needs torch is imported where it is used."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import nanos2t
from nanos2t import files as atomic
from nanos2t.cli import exercises
from nanos2t.cli import inputs as batch
from nanos2t.training import config as train_config
from nanos2t.transcription.formats import FORMATS, Layout, render

if TYPE_CHECKING:
    from nanos2t.transcription.transcriber import Result, SpeechToText

BAR = (
    "{percentage:3.0f}% |{bar}| {n:.0f}/{total_fmt} s of audio, {rate_noinv_fmt}, {remaining} left"
)
FAILED, USAGE, NO_MODEL, INTERRUPTED = 1, 2, 3, 130


class CommandError(Exception):
    """Ends the program: a line for stderr, or "" for none, and the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and leaves the exit to `main`."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} ({self.prog} --help tells more)", USAGE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        write_stdout("")
        raise CommandError(message or "", status)


def log_stderr(message: object) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        with suppress(OSError):
            print("nanos2t:", " ".join(str(message).split()), file=sys.stderr, flush=True)


def write_stdout(text: str) -> None:
    """Text on stdout, at once. Characters that it has no bytes for are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python tries again at its end
        closed = isinstance(error, BrokenPipeError)  # by a reader that has enough, as `head`
        raise CommandError("" if closed else f"stdout: {error.strerror}", FAILED) from None


def count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 1000")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nanos2t", description="Speech in, text out.")
    parser.add_argument("--version", action="version", version=f"nanos2t {nanos2t.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="what the bundled model hears in the bundled recording")
    demo.set_defaults(run=run_demo)
    add_fast_flag(demo)
    info = commands.add_parser("info", help="what a model is: sizes, languages, ids")
    info.set_defaults(run=run_info)
    info.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    more = info.add_mutually_exclusive_group()
    more.add_argument(
        "--map", action="store_true", help="each tensor: their name, our name, shape, rule"
    )
    more.add_argument(
        "--trace", metavar="FILE", help="each stage for this audio file: shape, time, values"
    )
    parity = commands.add_parser("parity", help="compare with transformers, stage by stage")
    parity.set_defaults(run=run_parity)
    parity.add_argument("model", nargs="?", help="folder or hub id; default: the bundled model")
    parity.add_argument("--audio", metavar="FILE", help="default: the bundled recording")
    parity.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of both"
    )
    parity.add_argument("--json", action="store_true", help="the same as JSON")
    train = commands.add_parser(
        "train", help="a model of two halves, from a manifest of audio and text"
    )
    train.set_defaults(run=run_train)
    train.add_argument(
        "--config", metavar="FILE", help="JSON or TOML with the names of the flags below"
    )
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    train_config.add_flags(train)
    add_transcribe(commands)
    exercises.add_command(commands)
    return parser


def add_fast_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fast",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use faster CPU kernels; --no-fast runs the core as it is written",
    )


def add_transcribe(commands) -> None:
    transcribe = commands.add_parser("transcribe", help="audio files to text, one line each")
    transcribe.set_defaults(run=lambda options: exercises.run_with(run_transcribe, options))
    add = transcribe.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio files, folders, patterns, - for stdin (read whole)",
    )
    add(
        "--files-from", metavar="LIST", help="a file that has an input on each line, or - for stdin"
    )
    yes_or_no = {"action": argparse.BooleanOptionalAction, "default": False}
    add("--words", **yes_or_no, help="find when each word is said (json)")
    add("--format", choices=tuple(FORMATS), default="txt", help="default: %(default)s")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="write STEM.FORMAT files there; text still goes to stdout",
    )
    add(
        "--skip-existing",
        action="store_true",
        help="pass over inputs whose file is in --output already",
    )
    add("--max-line-width", type=count, metavar="N", help="characters of a line of subtitles")
    add(
        "--max-line-count",
        type=count,
        default=2,
        metavar="N",
        help="lines then; default: %(default)s",
    )
    add("--highlight-words", action="store_true", help="tell when each word begins (vtt)")
    add(
        "--with",
        dest="work",
        metavar="DIR",
        help="run the functions that you wrote in tutorials/exercises",
    )
    align = commands.add_parser("align", help="when each word of a given text is said")
    align.set_defaults(run=run_align, num_beams=None)
    align.add_argument("file", metavar="FILE", help="an audio file, or - for stdin")
    align.add_argument("text", metavar="TEXT", help="what is said in it, as --language writes it")
    align.add_argument(
        "--format", choices=tuple(FORMATS), default="tsv", help="default: %(default)s"
    )
    evaluate, report = add_eval(commands), add_report(commands)
    for add in transcribe.add_argument, evaluate.add_argument:
        add(
            "--num-beams",
            type=count,
            metavar="N",
            help="hypotheses at a time; default: the model's own",
        )
        add(
            "--batch-size",
            type=count,
            default=8,
            metavar="N",
            help="pieces at a time; default: %(default)s",
        )
        add("--quiet", action="store_true", help="no progress bar, no warnings")
    for parser in transcribe, align, evaluate, report:
        add_fast_flag(parser)
    for add in (
        transcribe.add_argument,
        align.add_argument,
        evaluate.add_argument,
        report.add_argument,
    ):
        add("--model", help="folder or hub id; default: the bundled model (spoken numbers)")
        add("--language", help="the language to write, a code or name that `nanos2t info` lists")
        add("--device", default="cpu", help="cpu, cuda, cuda:1 ..., or auto; default: %(default)s")
        add(
            "--dtype",
            default="float32",
            help="float32, bfloat16 ..., int8, auto; default: %(default)s",
        )


def add_eval(commands) -> argparse.ArgumentParser:
    evaluate = commands.add_parser("eval", help="how well a model writes what a manifest says")
    evaluate.set_defaults(run=run_eval)
    add = evaluate.add_argument
    add(
        "manifest",
        metavar="MANIFEST",
        help="lines of JSON: audio, text, perhaps language, start, end",
    )
    add(
        "--normalise",
        action="store_true",
        help="compare without case and punctuation; default: as written",
    )
    add("--json", action="store_true", help="scores, the worst items and all items as JSON")
    add("--output", type=Path, metavar="FILE", help="write that JSON there")
    return evaluate


def add_report(commands) -> argparse.ArgumentParser:
    report = commands.add_parser(
        "report", help="how a recording becomes text: a page for a browser"
    )
    report.set_defaults(run=run_report)
    add = report.add_argument
    add("file", metavar="FILE", help="an audio file, or - for stdin")
    add("-o", "--output", type=Path, required=True, metavar="PAGE", help="the file to write")
    add(
        "--compare",
        metavar="PAGE",
        help="a page that was written before, to show its run beside this one",
    )
    add("--num-beams", type=count, metavar="N", help="default: the model's own, 4 at least")
    return report


def load(
    name: str | None, device: str = "cpu", dtype: str = "float32", fast: bool = False
) -> "SpeechToText":
    """The transcriber; Stop with 2 for a device or dtype that is none, with 3 for what cannot be loaded."""

    from nanos2t.transcription import loading

    with exit_with(USAGE, "--"):
        where = {
            "device": loading.choose_device(device),
            "dtype": loading.choose_dtype(dtype),
        }
    with exit_with(NO_MODEL):
        return nanos2t.load(name, fast=fast, **where)


def find_inputs(options: argparse.Namespace) -> tuple[list[tuple[str, str]], int]:
    """The inputs, each with the path of its output or "", and how many have failed already."""
    names, listed = list(options.files), options.files_from
    if names.count("-") + (listed == "-") > 1:
        raise CommandError("- is given more than once, but stdin can be read once", USAGE)
    if not names and not listed:
        raise CommandError("expected a FILE, or --files-from", USAGE)
    if options.skip_existing and not options.output:
        raise CommandError("--skip-existing: expected --output, where they are", USAGE)
    with exit_with(USAGE):
        files, errors = batch.find_files(names + (batch.read_list(listed) if listed else []))
        paths = [""] * len(files)
        if options.output:
            paths = list(map(str, batch.output_paths(files, options.output, options.format)))
    for error in errors:
        log_stderr(error)
    skip = options.skip_existing
    return [item for item in zip(files, paths) if not (skip and os.path.exists(item[1]))], len(
        errors
    )


def finish(
    name: str, path: str, outcome: "Result | ValueError", options, failures: list[str]
) -> str:
    """Write what was heard -> the text for stdout. If anything fails it is said, and among `failures`."""
    text = ""
    try:
        if isinstance(outcome, ValueError):
            raise outcome
        layout = Layout(options.max_line_width, options.max_line_count, options.highlight_words)
        written = render(outcome, options.format, name, layout)
        text = render(outcome, "txt") if path else written
        if path:
            atomic.write_text(Path(path), written)
    except ValueError as error:
        failures.append(name)
        log_stderr(
            error if str(error).startswith((f"{name}: ", f"{path}: ")) else f"{name}: {error}"
        )
    return text


def prepare(options: argparse.Namespace) -> tuple["SpeechToText", dict]:
    """The transcriber, and how to call it, checked. Stop for a language that it does not write."""
    stt = load(options.model, options.device, options.dtype, options.fast)
    how = {"num_beams": options.num_beams} if options.num_beams else {}
    with exit_with(USAGE):
        stt.generation_options(options.language, how)
    with exit_with(NO_MODEL, f"{options.model}: "):
        stt.model.generation.require_id("decoder_start_token_id")
    return stt, how | {"language": options.language, "return_errors": True}


def run_transcribe(options: argparse.Namespace) -> int:
    inputs = [[], 0] if os.environ.get("RANK", "0") != "0" else find_inputs(options)
    if "RANK" not in os.environ and not inputs[0]:
        return FAILED if inputs[1] else 0
    team = batch.WorkQueue()
    todo, failed = team.agree(inputs)
    hidden = warn_or_hush(options.quiet) or team.rank > 0
    stt, how = prepare(options)
    how["words"] = options.words or options.highlight_words or options.max_line_width is not None
    if options.output:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"--output {options.output}: {error.strerror}", USAGE) from None
    from tqdm import tqdm

    total, failures = None if hidden else batch.count_seconds(todo), []
    with tqdm(total=total, disable=hidden, bar_format=BAR) as bar:
        texts = transcribe_turns(stt, team, todo, options, how, bar, failures)
        for text in team.merge(texts, len(todo)):
            with tqdm.external_write_mode():
                write_stdout(text)
    return FAILED if team.sum(len(failures) + failed * (team.rank == 0)) else 0


def warn_or_hush(quiet: bool) -> bool:
    """Warnings are lines on stderr, or nothing -> whether a progress bar would disturb, or go unseen."""

    def warn(message: Warning, *rest) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode():
            log_stderr(f"warning: {message}")

    logging.getLogger("nanos2t").setLevel(logging.ERROR if quiet else logging.NOTSET)
    warnings.showwarning = warn
    warnings.simplefilter("ignore" if quiet else "always", UserWarning)
    return quiet or not (sys.stderr and sys.stderr.isatty())


def transcribe_turns(
    stt, team: batch.WorkQueue, todo: list, options, how: dict, bar, failures: list[str]
) -> Iterator[tuple[int, str]]:
    """The texts of the inputs that are this process's, with their indices; the bar moves on."""
    order = []

    def sources() -> Iterator[object]:
        for index in team.turns(len(todo)):
            order.append(index)
            yield source_of(todo[index][0])

    for outcome in stt.transcribe_many(sources(), options.batch_size, progress=bar.update, **how):
        index = order.pop(0)
        with bar.external_write_mode():
            text = finish(*todo[index], outcome, options, failures)
        yield index, text


def source_of(name: str) -> object:
    return name if name != "-" else sys.stdin.buffer if sys.stdin else b""


def run_align(options: argparse.Namespace) -> int:
    stt, _ = prepare(options)
    from nanos2t.transcription.forced_alignment import align_text

    with exit_with(FAILED, f"{options.file}: "):
        result = align_text(stt, source_of(options.file), options.text, options.language)
    write_stdout(render(result, options.format, options.file))
    return 0


def run_eval(options: argparse.Namespace) -> int:
    if missing := [name for name in ("jiwer", "sacrebleu") if find_spec(name) is None]:
        raise CommandError(
            f"eval needs {' '.join(missing)}, not installed: pip install {' '.join(missing)}", USAGE
        )
    from nanos2t.training import evaluation as evaluate
    from nanos2t.training import manifest

    with exit_with(USAGE):
        items = manifest.read_manifest(options.manifest)
    hidden = warn_or_hush(options.quiet)
    stt, how = prepare(options)
    from tqdm import tqdm

    with tqdm(total=len(items), disable=hidden, unit=" items") as bar:
        found = evaluate.transcribe_items(
            stt, items, options.batch_size, progress=bar.update, **how
        )
    result = evaluate.evaluate_results(
        items, found, evaluate.normalise_text if options.normalise else str
    )
    failed = [row for row in result["items"] if "error" in row]
    for row in failed:
        log_stderr(f"{row['audio']}: {row['error']}")
    whole = json.dumps(result, ensure_ascii=False) + "\n"
    write_stdout(whole if options.json else evaluate.render_evaluation(result))
    if options.output:
        with exit_with(FAILED):
            atomic.write_text(options.output, whole)
    return FAILED if failed else 0


def run_report(options: argparse.Namespace) -> int:
    from nanos2t.inspection import report

    with exit_with(USAGE):
        others = [report.read_page(options.compare)] if options.compare else []
    stt, _ = prepare(options)
    with exit_with(FAILED, f"{options.file}: "):
        title = Path(options.file).name
        run = report.analyse_recording(
            stt, source_of(options.file), title, options.language, options.num_beams
        )
    with exit_with(FAILED):
        atomic.write_text(options.output, report.render_page([run, *others]))
    return 0


def run_demo(options: argparse.Namespace) -> int:
    from nanos2t.transcription import loading

    started = time.perf_counter()

    stt, sample = load(None, fast=options.fast), loading.BUNDLED.parent / "sample.wav"
    log_stderr(f"{sample}: spoken digits, written in each language of the bundled model")
    width = max(map(len, stt.languages))
    for language in stt.languages:
        with exit_with(FAILED):
            write_stdout(f"{language:>{width}}  {stt.transcribe(sample, language=language)}\n")
    log_stderr(f"{time.perf_counter() - started:.1f} s, loading included")
    return 0


def run_train(options: argparse.Namespace) -> int:
    flags = {name: value for name, value in vars(options).items() if name not in ("command", "run")}
    with exit_with(USAGE):
        config = train_config.resolve_config(flags, flags.pop("config"), flags.pop("resume"))
    from nanos2t.training import loop as train

    with exit_with(FAILED):
        train.run_training(config, options.resume is not None)
    return 0


@contextmanager
def exit_with(code: int, prefix: str = "") -> Iterator[None]:
    """What is raised for a broken input ends the program with `code`; its line begins with `prefix`."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise CommandError(prefix + str(error).removeprefix(prefix), code) from None


def run_info(options: argparse.Namespace) -> int:
    from nanos2t.inspection import info, trace
    from nanos2t.transcription import loading

    with exit_with(NO_MODEL):
        folder = loading.find_model_folder(options.model)
        lines = info.tensor_map(folder) if options.map else info.describe_model(folder)
        if options.trace:
            stt = load(str(folder))
            with exit_with(FAILED):
                waveform = stt.load_audio(options.trace)
            lines = trace.render_trace(stt, waveform)
        for line in lines:
            write_stdout(f"{line}\n")
    return 0


def run_parity(options: argparse.Namespace) -> int:
    from nanos2t.transcription import loading

    if find_spec("transformers") is None:
        raise CommandError(
            "parity needs transformers, which is not installed: pip install transformers", USAGE
        )
    from nanos2t.inspection import parity
    from nanos2t.model import SpeechEncoderDecoder

    with exit_with(NO_MODEL):
        folder = loading.find_model_folder(options.model)
        dtype = loading.choose_dtype(options.dtype)
        stt = loading.from_folder(
            SpeechEncoderDecoder.from_pretrained(folder, dtype=dtype), folder
        )  # the core alone
        with exit_with(FAILED):
            waveform = stt.load_audio(options.audio or loading.BUNDLED.parent / "sample.wav")
        theirs = parity.load_theirs(folder, dtype)
        rows = parity.compare_models(stt.model, theirs, stt.prepare([waveform])[0])
    found = {"first_departure": parity.first_departure(rows), "stages": [*map(vars, rows)]}
    write_stdout(json.dumps(found) + "\n" if options.json else parity.render_parity(rows))
    return FAILED if found["first_departure"] else 0


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
    except CommandError as stop:
        if str(stop):
            log_stderr(stop)
        return stop.code
    except KeyboardInterrupt:
        log_stderr("interrupted")
        return INTERRUPTED
