"""How well a model writes what a manifest says, for `nanos2t eval`, by jiwer and sacrebleu.
Texts are compared as they stand, case and punctuation included, unless they are cleaned first. Rates are over
the corpus: errors of all items by the words (characters) of all items, so they can exceed 1."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nanos2t.training import manifest
from nanos2t.training.manifest import Item
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText

SCORES = {"items": "d", "exact": ".4f", "wer": ".4f", "cer": ".4f", "bleu": ".2f", "chrf": ".2f"}


def transcribe_items(
    stt: SpeechToText,
    items: Sequence[Item],
    batch_size: int = 8,
    *,
    language: str | None = None,
    progress: Callable[[int], object] = lambda done: None,
    **options,
) -> list[Result | ValueError]:
    """What the model writes for each item, or why it does not. `language` is that of items that name none; a
    model of one language is not asked for any. `progress` is called with 1 for each item that is heard."""
    found: dict[int, Result | ValueError] = {}
    asked = [(item.language or language) if stt.languages else None for item in items]

    def waveforms(code: str | None, read: list[int]) -> Iterator[np.ndarray]:
        for i in (i for i, other in enumerate(asked) if other == code):
            try:
                waveform = manifest.load_item(items[i], stt.sample_rate)
            except ValueError as error:
                found[i] = error
            else:
                read.append(i)
                yield waveform

    for code in dict.fromkeys(asked):
        how, read = (
            options | {"language": code, "sample_rate": stt.sample_rate, "return_errors": True},
            [],
        )
        try:
            for outcome in stt.transcribe_many(waveforms(code, read), batch_size, **how):
                found[read.pop(0)] = outcome
                progress(1)
        except ValueError as error:  # the language is none of the model's
            found |= {i: error for i, other in enumerate(asked) if other == code}
    return [found[i] for i in range(len(items))]


def normalise_text(text: str) -> str:
    """Lower case, compatible forms as one (NFKC), punctuation and symbols as spaces, single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text).split())


def compute_scores(pairs: Sequence[tuple[str, str]], language: str = "") -> dict[str, float]:
    """SCORES of (text, heard): the share that is exactly right, errors by words, by characters, in percent
    BLEU (Papineni et al. 2002) and chrF (Popovic 2015). BLEU takes Chinese apart by a rule for it, Japanese
    and Thai by characters, the rest by "13a"; n-grams that are longer than every text do not count."""
    import jiwer
    from sacrebleu.metrics import BLEU, CHRF

    texts, heard = map(list, zip(*pairs))
    rule = {"zh": "zh", "ja": "char", "th": "char"}.get(language[:2].lower(), "13a")
    bleu, chrf = BLEU(tokenize=rule, effective_order=True), CHRF()
    return {
        "items": len(texts),
        "exact": sum(map(str.__eq__, texts, heard)) / len(texts),
        "wer": jiwer.wer(texts, heard),
        "cer": jiwer.cer(texts, heard),
        "bleu": bleu.corpus_score(heard, [texts]).score,
        "chrf": chrf.corpus_score(heard, [texts]).score,
    }


def evaluate_results(
    items: Sequence[Item],
    found: Sequence[Result | ValueError],
    clean: Callable[[str], str] = str,
    worst: int = 10,
) -> dict:
    """{"scores": {a language, or "all": SCORES}, "worst": those with the highest WER, word under word,
    "items": {"audio", "language", "text", "heard", "wer"} of each, or "error"}; texts are cleaned first."""
    from jiwer import process_words, visualize_alignment

    rows, groups = [], {}
    for item, one in zip(items, found):
        rows.append(
            {"audio": str(item), "language": item.language or "-", "text": clean(item.text)}
        )
        if isinstance(one, ValueError):
            rows[-1]["error"] = str(one).removeprefix(f"{item.audio}: ")
            continue
        language, heard = one.language or rows[-1]["language"], clean(one.text)
        rows[-1] |= {
            "language": language,
            "heard": heard,
            "wer": process_words(rows[-1]["text"], heard).wer,
        }
        for name in language, "all":
            groups.setdefault(name, []).append((rows[-1]["text"], heard))
    names = sorted(groups, key=lambda name: (name == "all", name))
    scores = {
        name: compute_scores(groups[name], names[0] if len(names) == 2 else name) for name in names
    }
    wrong = [row for row in rows if row["text"] != row.get("heard", row["text"])]
    wrong = sorted(wrong, key=lambda row: -row["wer"])[:worst]
    lines = (visualize_alignment(process_words(row["text"], row["heard"]), False) for row in wrong)
    aligned = [
        row | {"alignment": text.split("\n\n")[1].rstrip()} for row, text in zip(wrong, lines)
    ]
    return {"scores": scores, "worst": aligned, "items": rows}


def render_evaluation(found: dict) -> str:
    """A report as text: a table with a line for each language, then the worst items."""
    table = [["", *SCORES]]
    for name, row in found["scores"].items():
        table.append([name, *(format(row[key], SCORES[key]) for key in SCORES)])
    widths = [max(map(len, column)) for column in zip(*table)]
    text = "".join("  ".join(map(str.rjust, row, widths)) + "\n" for row in table)
    for row in found["worst"]:
        text += f"\n{row['audio']}  {row['language']}  WER {row['wer']:.2f}\n{row['alignment']}\n"
    return text
