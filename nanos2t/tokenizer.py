"""Ids <-> text from a checkpoint's own tokenizer files, through the `tokenizers` package."""

from pathlib import Path


class Tokenizer:
    """A thin layer over tokenizers.Tokenizer. `special` ids (start, end, pads, languages) are no text."""

    def __init__(self, backend, languages: dict[str, int] | None = None, start_id: int | None = None,
                 end_id: int | None = None, pad_id: int | None = None):
        self.backend = backend
        self.languages = languages or {}
        self.start_id, self.end_id, self.pad_id = start_id, end_id, pad_id

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Text -> the labels a model is trained on: [language] text </s>."""
        ids = self.backend.encode(text, add_special_tokens=False).ids
        prefix = [] if language is None else [self.languages[language]]
        return [*prefix, *ids, self.end_id]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def batch_decode(self, ids, skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(row, skip_special_tokens) for row in ids]
