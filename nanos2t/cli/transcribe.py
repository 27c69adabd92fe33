"""`nanos2t transcribe`: audio files to text, by one process or by those of torchrun."""

import argparse
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nanos2t import files
from nanos2t.cli.console import (
    FAILED,
    USAGE,
    CommandError,
    exit_with,
    hides_progress,
    log_stderr,
    open_seconds_bar,
    open_source,
    show_warnings,
    write_stdout,
)
from nanos2t.cli.exercises import replaced_functions
from nanos2t.cli.inputs import count_seconds, describe_passed, find_files, pair_outputs, read_list
from nanos2t.cli.options import (
    add_batch_options,
    add_model_options,
    load_transcriber,
    model_files,
    parse_count,
    search_options,
)
from nanos2t.cli.work_queue import WorkQueue
from nanos2t.transcription.formats import FORMATS, Layout, render

if TYPE_CHECKING:
    from tqdm import tqdm

    from nanos2t.transcription.results import Result, Segment
    from nanos2t.transcription.transcriber import SpeechToText


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "transcribe",
        help="transcribe audio files, one line of text each",
        epilog="A file that fails has an empty line, and its reason is on stderr.",
    )
    parser.set_defaults(run=run)
    add_input_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--with",
        dest="work",
        metavar="DIR",
        help="run the functions that you wrote in tutorials/exercises; implies --no-fast",
    )
    add_batch_options(parser)
    add_model_options(parser)


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the inputs."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio files, folders, patterns, or - for stdin",
    )
    parser.add_argument(
        "--files-from", metavar="LIST", help="a file with one input on each line, or - for stdin"
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip inputs whose file is in --output already",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is written, and where."""
    parser.add_argument(
        "--words",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="find when each word is spoken (json)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="txt",
        help="on stdout, srt, vtt and tsv are of one input; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write a file STEM.FORMAT for each input there; text still goes to stdout",
    )
    parser.add_argument(
        "--max-line-width",
        type=parse_count,
        metavar="N",
        help="characters in a line of subtitles",
    )
    parser.add_argument(
        "--max-line-count",
        type=parse_count,
        default=2,
        metavar="N",
        help="lines of a subtitle, with --max-line-width; default: %(default)s",
    )
    parser.add_argument(
        "--highlight-words", action="store_true", help="mark when each word begins (vtt)"
    )


def run(options: argparse.Namespace) -> int:
    """Transcribe the inputs, and return the exit code."""
    if options.work is None:
        return transcribe_files(options)

    # The exercises replace functions of the core, which the fast modules do not call.
    options.fast = False
    with replaced_functions(options.work):
        return transcribe_files(options)


def transcribe_files(options: argparse.Namespace) -> int:
    """Transcribe the inputs. The exit code is FAILED if one of them failed."""
    # Of several processes, only the first one looks for the inputs.
    inputs = []
    num_failed = 0
    if os.environ.get("RANK", "0") == "0":
        inputs, num_failed = find_inputs(options)

    # Without inputs no model is needed.
    if "RANK" not in os.environ and not inputs:
        return FAILED if num_failed else 0

    queue = WorkQueue()
    inputs = queue.broadcast(inputs)
    show_warnings(options.quiet)
    stt = load_transcriber(options)
    if options.output:
        make_folder(options.output)

    if streams_stdin(inputs, options, queue.num_processes):
        return transcribe_stdin(stt, options)

    # One progress bar shows the inputs of all processes.
    hidden = hides_progress(options.quiet) or queue.rank > 0
    total = None
    if not hidden:
        total = count_seconds(name for name, _ in inputs)
    failures = []
    with open_seconds_bar(total, hidden) as bar:
        texts = transcribe_claimed(stt, queue, inputs, options, bar, failures)
        for text in queue.merge_texts(texts, len(inputs)):
            with bar.external_write_mode():
                write_stdout(text, is_needed=options.output is None)

    num_failed = queue.sum(num_failed + len(failures))
    return FAILED if num_failed else 0


def streams_stdin(
    inputs: list[tuple[str, str]], options: argparse.Namespace, num_processes: int
) -> bool:
    """Return whether text can be written while stdin is read: bare text, of nothing else."""
    names = [name for name, _ in inputs]
    is_bare = options.format == "txt" and not options.output
    return names == ["-"] and is_bare and num_processes == 1 and not needs_words(options)


def transcribe_stdin(stt: "SpeechToText", options: argparse.Namespace) -> int:
    """Write the text of stdin, each segment when it is there, and return the exit code."""
    separator = ""
    code = 0

    def write_segment(segment: "Segment") -> None:
        nonlocal separator
        with bar.external_write_mode():
            write_stdout(separator + segment.text)
        separator = " "

    with open_seconds_bar(None, hides_progress(options.quiet)) as bar:
        try:
            stt.transcribe_stream(
                open_source("-"),
                write_segment,
                options.batch_size,
                language=options.language,
                progress=bar.update,
                **search_options(options),
            )
        except ValueError as error:
            log_stderr(name_input(error, "-", ""))
            code = FAILED
    # What was written before a failure is a line, too, as it is if that is nothing.
    write_stdout("\n")
    return code


def needs_words(options: argparse.Namespace) -> bool:
    """Return whether an option needs the times of words."""
    return options.words or options.highlight_words or options.max_line_width is not None


def find_inputs(options: argparse.Namespace) -> tuple[list[tuple[str, str]], int]:
    """Return the inputs, each with the path of its output or "", and how many failed already."""
    check_inputs(options)
    names = list(options.files)
    with exit_with(USAGE):
        if options.files_from:
            names += read_list(options.files_from)
        search = find_files(names)
        input_files = search.files
        if options.output:
            inputs = pair_outputs(input_files, options.output, options.format)
            read_files = [*input_files, *model_files(options)]
            if options.files_from:
                read_files.append(options.files_from)
            files.check_outputs([path for _, path in inputs], read_files)
        else:
            inputs = [(name, "") for name in input_files]

    # One file of subtitles, or one table, can have the times of one recording.
    if options.format in ("srt", "vtt", "tsv") and not options.output and len(inputs) > 1:
        message = f"{len(inputs)} inputs, expected one, or --output DIR for a file of each"
        raise CommandError(f"--format {options.format}: {message}", USAGE)

    for error in search.errors:
        log_stderr(error)
    if search.passed_over and not options.quiet:
        log_stderr(f"{len(input_files)} inputs{describe_passed(search)}")
    if options.skip_existing:
        inputs = [(name, path) for name, path in inputs if not os.path.exists(path)]
    return inputs, len(search.errors)


def check_inputs(options: argparse.Namespace) -> None:
    """Raise CommandError for options that contradict each other."""
    uses_of_stdin = options.files.count("-")
    if options.files_from == "-":
        uses_of_stdin += 1
    if uses_of_stdin > 1:
        raise CommandError("- is given more than once, but stdin can be read once", USAGE)
    if not options.files and not options.files_from:
        raise CommandError("expected a FILE, or --files-from", USAGE)
    if options.skip_existing and not options.output:
        raise CommandError("--skip-existing: expected --output, where they are", USAGE)


def make_folder(folder: Path) -> None:
    """Create the folder of --output, unless it exists."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--output {folder}: {error.strerror}", USAGE) from None


def transcribe_claimed(
    stt: "SpeechToText",
    queue: WorkQueue,
    inputs: list[tuple[str, str]],
    options: argparse.Namespace,
    bar: "tqdm",
    failures: list[str],
) -> Iterator[tuple[int, str]]:
    """Yield the index and the text of each input that this process claims from the queue."""
    # transcribe_many takes some sources ahead, but its outcomes are in the order of the sources.
    claimed = deque()

    def claim_sources() -> Iterator[object]:
        for index in queue.claim_indices(len(inputs)):
            claimed.append(index)
            name, _ = inputs[index]
            yield open_source(name)

    outcomes = stt.transcribe_many(
        claim_sources(),
        options.batch_size,
        language=options.language,
        words=needs_words(options),
        progress=bar.update,
        return_errors=True,
        **search_options(options),
    )
    for outcome in outcomes:
        index = claimed.popleft()
        name, path = inputs[index]
        with bar.external_write_mode():
            text = finish_input(name, path, outcome, options, failures)
        yield index, text


def finish_input(
    name: str,
    path: str,
    outcome: "Result | ValueError",
    options: argparse.Namespace,
    failures: list[str],
) -> str:
    """Write the file of one input, if it has a path, and return the text for stdout.

    What fails has a line on stderr, and its name is added to `failures`. Its text is an empty line,
    so that the lines of bare text are those of the inputs.
    """
    if isinstance(outcome, ValueError):
        failures.append(name)
        log_stderr(name_input(outcome, name, path))
        is_text = bool(path) or options.format == "txt"
        return "\n" if is_text else ""

    layout = Layout(options.max_line_width, options.max_line_count, options.highlight_words)
    rendered = render(outcome, options.format, name, layout)
    if not path:
        return rendered

    # When the file cannot be written, its text still goes to stdout.
    try:
        files.write_text(Path(path), rendered)
    except ValueError as error:
        failures.append(name)
        log_stderr(name_input(error, name, path))
    return render(outcome, "txt")


def name_input(error: ValueError, name: str, path: str) -> str:
    """Return the message of an error, beginning with the name of the input or output."""
    message = str(error)
    if message.startswith((f"{name}: ", f"{path}: ")):
        return message
    return f"{name}: {message}"
