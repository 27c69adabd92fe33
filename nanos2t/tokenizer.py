"""Convert text to token ids and back, with the tokenizer of a checkpoint.

This file reads tokenizer.json and BERT's vocab.txt; transcription/vocabularies.py also reads the
older files of other families.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
        """Return the ids of a text, with the special tokens that the checkpoint puts around it."""
        return self.backend.encode(text).ids

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
        with named_errors(file):
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))

    # BERT's WordPiece. Without strip_accents, lower case decides: that is the library's default.
    file = folder / "vocab.txt"
    if file.exists():
        with named_errors(file):
            backend = tokenizers.BertWordPieceTokenizer(
                str(file),
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


@contextmanager
def named_errors(file: Path) -> Iterator[None]:
    """Turn every error of the `with` block into a ValueError of one line that names the file.

    The libraries in Rust and C++ raise no narrower class than Exception.
    """
    try:
        yield
    except Exception as error:
        # Some of them name the file themselves.
        line = files.first_line(error)
        if not str(error).startswith(str(file)):
            line = f"{file}: {line}"
        raise ValueError(f"{line}, expected the file of a tokenizer") from None
