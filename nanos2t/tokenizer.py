"""Convert text to token ids and back, with the tokenizer of a checkpoint.

This file reads tokenizer.json and BERT's vocab.txt; transcription/vocabularies.py also reads the
older files of other families.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nanos2t import files


class Tokenizer:
    """A thin layer over a tokenizers.Tokenizer, with the ids of the checkpoint's own tokenizer.

    languages: the special tokens that are language codes, and their ids: {"ar_AR": 250001, ...} in
    mBART-50.
    """

    def __init__(self, backend):
        # A checkpoint's file may ask for both. Texts are encoded alone and as they are.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend

        # A code that is an ordinary token is a word, not a language.
        self.languages = {}
        for token_id, token in backend.get_added_tokens_decoder().items():
            if token.special and re.fullmatch("[a-z]{2}_[A-Z]{2}", token.content):
                self.languages[token.content] = token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with the special tokens that the checkpoint puts around it.

        Raises ValueError for a text that the vocabulary has no tokens for.
        """
        try:
            return self.backend.encode(text).ids
        except Exception as error:
            raise ValueError(f"text {text!r:.40}: {files.first_line(error)}") from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids (T,), a list or a tensor."""
        ids = [int(token_id) for token_id in ids]
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Return the B texts of ids (B, T)."""
        return [self.decode(row, skip_special_tokens) for row in ids]


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """Load the tokenizer.json or BERT's vocab.txt of a folder; None if it has neither.

    Raises ValueError that names the file that is broken.
    """
    import tokenizers

    # The file of the `tokenizers` library itself has everything in it.
    options = read_tokenizer_config(folder)
    file = folder / "tokenizer.json"
    if file.exists():
        with named_errors(file), hold_stderr():
            loaded = Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
            try_tokenizer(loaded)
            return loaded

    # BERT's WordPiece. Without strip_accents, lower case decides: that is the library's default.
    file = folder / "vocab.txt"
    if file.exists():
        with named_errors(file):
            backend = tokenizers.BertWordPieceTokenizer(
                str(file),
                handle_chinese_chars=options.get("tokenize_chinese_chars", True),
                lowercase=options.get("do_lower_case", True),
                strip_accents=options.get("strip_accents"),
            )
            return Tokenizer(backend)
    return None


def read_tokenizer_config(folder: Path) -> dict:
    """Read tokenizer_config.json; {} if it is missing."""
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return {}
    return files.read_json(file)


def try_tokenizer(loaded: Tokenizer) -> None:
    """Use a tokenizer once: some broken files are read, but the library in Rust panics later."""
    # An error is the answer to this text, as where a vocabulary has no token for unknown words.
    with suppress(Exception):
        loaded.encode("a b")
    with suppress(Exception):
        loaded.decode([0, 1])


@contextmanager
def hold_stderr() -> Iterator[None]:
    """Hold back what is written to stderr, until the `with` block ends, or drop it on an error.

    The library in Rust itself writes several lines there when it panics.
    """
    try:
        stderr = os.dup(2)
    except OSError:
        # There is no stderr.
        yield
        return

    with open_scratch_file() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        held.seek(0)
        text = held.read()
        # A stderr that takes nothing is no reason to fail.
        if text:
            with suppress(OSError):
                os.write(2, text)


def open_scratch_file() -> BinaryIO:
    """Open a file without a name: in memory where the system can, so that no disk is needed."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("nanos2t"), "w+b")
    return tempfile.TemporaryFile()


def is_error(error: BaseException) -> bool:
    """Whether this is an error of a library: an Exception, or a panic of Rust, which is none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


@contextmanager
def named_errors(file: Path) -> Iterator[None]:
    """Turn every error of the `with` block into a ValueError of one line that names the file.

    The libraries in Rust and C++ raise no narrower class than Exception, and Rust a wider one.
    """
    files.check_downloaded(file)
    try:
        yield
    except BaseException as error:
        if not is_error(error):
            raise
        # Some of them name the file themselves.
        line = files.first_line(error)
        if not str(error).startswith(str(file)):
            line = f"{file}: {line}"
        raise ValueError(f"{line}, expected the file of a tokenizer") from None
