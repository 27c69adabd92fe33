"""Ids <-> text, from the tokenizer files of a checkpoint, through the `tokenizers` package."""

from collections.abc import Iterable
from pathlib import Path

from nanos2t import pretrained


class Tokenizer:
    """A thin layer over tokenizers.Tokenizer: ids are what the checkpoint's own tokenizer gives."""

    def __init__(self, backend):
        self.backend = backend

    def encode(self, text: str) -> list[int]:
        """Text -> ids, with the special tokens around it that the tokenizer's files ask for."""
        return self.backend.encode(text).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Ids (T,), a tensor too, -> text."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, ids: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Ids (B, T) -> B texts."""
        return [self.decode(row, skip_special_tokens) for row in ids]

def load(folder: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder, from tokenizer.json or BERT's vocab.txt; None without either.
    ValueError names a file that cannot be read."""
    import tokenizers

    config = folder / "tokenizer_config.json"
    lowercase = not config.exists() or pretrained.read_json(config).get("do_lower_case", True)
    try:
        if (file := folder / "tokenizer.json").exists():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
        if (file := folder / "vocab.txt").exists():
            return Tokenizer(tokenizers.BertWordPieceTokenizer(str(file), lowercase=lowercase))
    except Exception as error:  # the Rust side raises no narrower class
        raise ValueError(f"{file}: {error}, expected the file of a tokenizer") from None
    return None
