"""Vocabularies of each family, trained on tests/data/scripts.txt, in folders as published."""

import functools
import io
import json
from collections import Counter
from pathlib import Path

import sentencepiece
import tokenizers

from nanos2t.transcription import vocabularies

LINES = (
    (Path(__file__).parents[1] / "data" / "scripts.txt").read_text(encoding="utf-8").splitlines()
)


LINES = [line.partition("\t")[::2] for line in LINES]  # (script, text)


CORPUS = [text for _, text in LINES]


def write(folder: Path, **files: object) -> Path:
    """Files by name, "_" for the dot: text as it is, bytes too, what is left as JSON."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
    return folder


def in_order(vocab: dict[str, int]) -> list[str]:
    return sorted(vocab, key=vocab.get)


def bert(folder: Path, lowercase: bool | None = None) -> Path:
    """Write the vocab.txt of bert-base-uncased, or of -cased with `lowercase` False.

    With either value, there is a tokenizer_config.json, too.
    """
    trained = tokenizers.BertWordPieceTokenizer(lowercase=lowercase is not False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(
        CORPUS, vocab_size=2500, show_progress=False, special_tokens=special
    )
    config = {} if lowercase is None else {"tokenizer_config__json": {"do_lower_case": lowercase}}
    return write(
        folder,
        vocab__txt="".join(f"{token}\n" for token in in_order(trained.get_vocab())),
        **config,
    )


def byte_level(folder: Path, special: list[str], last: list[str], **config: object) -> Path:
    """vocab.json and merges.txt as GPT-2's and BART's: `special` tokens in front, `last` behind."""
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [*CORPUS, "me@@example.org @@ @@"] * 2,
        vocab_size=1500,
        special_tokens=special,
        show_progress=False,
    )
    model = json.loads(trained.to_str())["model"]
    vocab = model["vocab"] | {token: len(model["vocab"]) + i for i, token in enumerate(last)}
    merges = [
        "#version: 0.2",
        *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]),
    ]
    config = {f"{name}__json": content for name, content in config.items()}
    return write(folder, vocab__json=vocab, merges__txt="\n".join(merges) + "\n", **config)


def gpt2(folder: Path) -> Path:
    return byte_level(folder, [], ["<|endoftext|>"])


def bart(folder: Path) -> Path:
    """Write the vocabulary of BART and RoBERTa, with GPT-2's <|endoftext|> as any other token."""
    first, last = ["<s>", "<pad>", "</s>", "<unk>"], ["<|endoftext|>", "madeupword0000", "<mask>"]
    return byte_level(folder, first, last, tokenizer_config={"model_max_length": 1024})


@functools.cache
def sentencepiece_model(kind: str = "unigram", **options: object) -> bytes:
    written = io.BytesIO()
    options = {
        "vocab_size": 1400,
        "hard_vocab_limit": kind == "bpe",
        "character_coverage": 1.0,
    } | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        model_type=kind,
        minloglevel=2,
        **options,
    )
    return written.getvalue()


MBART_SPECIAL = {
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"},
    **{"pad_token": "<pad>", "cls_token": "<s>"},
    "mask_token": {"content": "<mask>", "single_word": False, "lstrip": True, "rstrip": False},
    "additional_special_tokens": vocabularies.MBART50_LANGUAGES,
}


def mbart50(folder: Path, kind: str = "unigram", **config: object) -> Path:
    """The files of facebook/mbart-large-50 and of wav2vec2-xls-r-300m-en-to-15."""
    config = {"src_lang": None, "tgt_lang": None, "tokenizer_class": "MBart50Tokenizer"} | config
    files = {"special_tokens_map__json": MBART_SPECIAL, "tokenizer_config__json": config}
    return write(folder, **{"sentencepiece__bpe__model": sentencepiece_model(kind)}, **files)


@functools.cache
def learn_fast_bpe() -> tuple[list[tuple[str, str, str]], list[str]]:
    """Merges with their counts, the tokens that they leave."""
    words = Counter(word for text in CORPUS for word in text.split())
    parts = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    for _ in range(100):
        pairs = Counter()
        for word, split in parts.items():
            for pair in zip(split, split[1:]):
                pairs[pair] += words[word]
        best = max(sorted(pairs), key=pairs.get)
        merges.append((*best, str(pairs[best])))
        for split in parts.values():
            merge(split, best)
    tokens = {(part + "@@").replace("</w>@@", "") for split in parts.values() for part in split}
    return merges, ["<s>", "<pad>", "</s>", "<unk>", *sorted(tokens)]


def fast_bpe(folder: Path, columns: int = 3) -> Path:
    """Write the files of facebook/s2t-wav2vec2-large-en-de; merges.txt with or without counts."""
    merges, tokens = learn_fast_bpe()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return write(
        folder,
        vocab__json={token: i for i, token in enumerate(tokens)},
        merges__txt="".join(" ".join(line[:columns]) + "\n" for line in merges),
        special_tokens_map__json=names,
        tokenizer_config__json=names
        | {"do_lower_case": False, "tokenizer_class": "Speech2Text2Tokenizer"},
    )


def merge(parts: list[str], pair: tuple[str, str]) -> None:
    i = 0
    while i < len(parts) - 1:
        if (parts[i], parts[i + 1]) == pair:
            parts[i : i + 2] = ["".join(pair)]
        i += 1
