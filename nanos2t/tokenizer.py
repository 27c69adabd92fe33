"""Ids <-> text, from a checkpoint's tokenizer.json or vocab.txt; transcription/vocabularies.py reads others, too."""

import re
from collections.abc import Iterable
from pathlib import Path

from nanos2t import files


class Tokenizer:
    """A thin layer over tokenizers.Tokenizer: ids are what the checkpoint's own tokenizer gives.
    `languages`: the codes among the special tokens and their ids, {"ar_AR": 250001, ...}, as in mBART-50."""

    def __init__(self, backend):
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        added = backend.get_added_tokens_decoder().items()
        special = {token.content: i for i, token in added if token.special}
        self.languages = {
            code: i for code, i in special.items() if re.fullmatch("[a-z]{2}_[A-Z]{2}", code)
        }

    def encode(self, text: str) -> list[int]:
        """Text -> ids, with the special tokens around it that the tokenizer's files ask for."""
        return self.backend.encode(text).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Ids (T,), a tensor too, -> text."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Ids (B, T) -> B texts."""
        return [self.decode(row, skip_special_tokens) for row in ids]


def read_tokenizer_config(folder: Path) -> dict:
    return files.read_json(file) if (file := folder / "tokenizer_config.json").exists() else {}


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a folder: tokenizer.json or BERT's vocab.txt; None if neither. ValueError: broken."""
    import tokenizers

    options = read_tokenizer_config(folder)
    try:
        if (file := folder / "tokenizer.json").exists():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
        if (file := folder / "vocab.txt").exists():
            case, bare = options.get("do_lower_case", True), options.get("strip_accents")
            return Tokenizer(
                tokenizers.BertWordPieceTokenizer(str(file), lowercase=case, strip_accents=bare)
            )
    except Exception as error:  # the Rust side raises no narrower class
        raise damaged_tokenizer(file, error) from None


def damaged_tokenizer(file: Path, error: Exception) -> ValueError:
    where = "" if str(error).startswith(str(file)) else f"{file}: "
    return ValueError(f"{where}{files.first_line(error)}, expected the file of a tokenizer")
