"""`nanos2t eval`: how well a model transcribes a manifest, measured by jiwer and sacrebleu.

    items -> transcribe_items: results or errors -> evaluate_results: scores, worst items
        -> render_evaluation: text

Texts are compared as they are, with case and punctuation, unless `clean` changes them first. Error
rates are over the corpus: the errors of all items, divided by the words (or characters) of all
items. They can exceed 1. An item with an empty text counts only if something was transcribed: then
it is wrong. If nothing was, there is nothing to compare, and the item is neither right nor wrong.
"""

import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

import numpy as np

from nanos2t.training.manifest import Item, load_item
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText

# The scores and their formats in a table
SCORES = {"items": "d", "exact": ".4f", "wer": ".4f", "cer": ".4f", "bleu": ".2f", "chrf": ".2f"}

# How BLEU splits texts that have no spaces between words; the rest is split by its default, "13a"
BLEU_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char"}


def ignore_progress(count: int) -> None:
    """Show nothing."""


def transcribe_items(
    stt: SpeechToText,
    items: Sequence[Item],
    batch_size: int = 8,
    *,
    language: str | None = None,
    progress: Callable[[int], object] = ignore_progress,
    **options,
) -> list[Result | ValueError]:
    """Return the result for each item, or the error that prevented it.

    `language` is that of items without one; a model of a single language is called without any.
    `progress` is called with 1 for each item that is transcribed. `options`: see
    SpeechToText.transcribe_many.
    """
    # A call of the model has one language: go through the items of each in turn.
    indices_by_language: dict[str | None, list[int]] = {}
    for i, item in enumerate(items):
        item_language = None
        if stt.languages:
            item_language = item.language or language
        indices_by_language.setdefault(item_language, []).append(i)

    outcomes: dict[int, Result | ValueError] = {}
    for item_language, indices in indices_by_language.items():
        call_options = options | {"language": item_language}
        same_language = [items[i] for i in indices]
        results = transcribe_same_language(stt, same_language, batch_size, progress, call_options)
        outcomes |= zip(indices, results)
    return [outcomes[i] for i in range(len(items))]


def transcribe_same_language(
    stt: SpeechToText,
    items: list[Item],
    batch_size: int,
    progress: Callable[[int], object],
    options: dict,
) -> list[Result | ValueError]:
    """Transcribe the items in one call; a recording that cannot be loaded fails alone."""
    outcomes: dict[int, Result | ValueError] = {}
    waiting: deque[int] = deque()  # indices of items that are loaded, but not yet transcribed

    def load_waveforms() -> Iterator[np.ndarray]:
        for i, item in enumerate(items):
            try:
                waveform = load_item(item, stt.sample_rate)
            except ValueError as error:
                outcomes[i] = error
            else:
                waiting.append(i)
                yield waveform

    options = options | {"sample_rate": stt.sample_rate, "return_errors": True}
    try:
        for result in stt.transcribe_many(load_waveforms(), batch_size, **options):
            outcomes[waiting.popleft()] = result
            progress(1)
    except ValueError as error:  # an unknown language: nothing was transcribed
        return [error] * len(items)
    return [outcomes[i] for i in range(len(items))]


def normalise_text(text: str) -> str:
    """Return a text in lower case and compatible forms (NFKC), without punctuation and symbols."""
    text = unicodedata.normalize("NFKC", text).casefold()
    characters = []
    for character in text:
        category = unicodedata.category(character)
        if category[0] in "PS":  # punctuation, symbol
            characters.append(" ")
        else:
            characters.append(character)
    words = "".join(characters).split()
    return " ".join(words)


def compute_scores(pairs: Sequence[tuple[str, str]], language: str = "") -> dict[str, float | None]:
    """Return SCORES of pairs (reference, hypothesis); None for all rates if all texts are empty.

    "exact" is the share of identical pairs; "wer" and "cer" are errors by words and characters;
    BLEU (Papineni et al. 2002) and chrF (Popovic 2015) are percentages. BLEU splits words as the
    language needs, and ignores orders of n-grams that are longer than every text. "items" counts
    all pairs; those with two empty texts count in nothing else.
    """
    import jiwer
    from sacrebleu.metrics import BLEU, CHRF

    compared = [pair for pair in pairs if not are_empty(*pair)]
    if not compared:
        return dict.fromkeys(SCORES, None) | {"items": len(pairs)}

    references = [reference for reference, _ in compared]
    hypotheses = [hypothesis for _, hypothesis in compared]
    exact = [reference for reference, hypothesis in compared if reference == hypothesis]
    tokenizer = BLEU_TOKENIZERS.get(language[:2].lower(), "13a")
    bleu = BLEU(tokenize=tokenizer, effective_order=True)
    return {
        "items": len(pairs),
        "exact": len(exact) / len(compared),
        "wer": jiwer.wer(references, hypotheses),
        "cer": jiwer.cer(references, hypotheses),
        "bleu": bleu.corpus_score(hypotheses, [references]).score,
        "chrf": CHRF().corpus_score(hypotheses, [references]).score,
    }


def are_empty(reference: str, hypothesis: str) -> bool:
    """Return whether there is nothing to compare."""
    return not reference.strip() and not hypothesis.strip()


def evaluate_results(
    items: Sequence[Item],
    results: Sequence[Result | ValueError],
    clean: Callable[[str], str] = str,
    num_worst: int = 10,
) -> dict:
    """Compare results with the texts of their items, both cleaned by `clean`.

    Returns {"scores": SCORES by language and for "all"; "worst": the items with the highest word
    error rates and their alignments; "items": for each its "audio", "language", "text", and "heard"
    and "wer" (None if both texts are empty), or "error"}.
    """
    rows = [evaluate_item(item, result, clean) for item, result in zip(items, results)]
    transcribed = [row for row in rows if "error" not in row]

    # Items with the highest word error rates; those with equal rates keep their order.
    wrong = [row for row in transcribed if row["wer"] is not None and row["text"] != row["heard"]]
    wrong.sort(key=itemgetter("wer"), reverse=True)
    worst = []
    for row in wrong[:num_worst]:
        worst.append(row | {"alignment": align_words(row)})
    return {"scores": score_languages(transcribed), "worst": worst, "items": rows}


def score_languages(rows: list[dict]) -> dict[str, dict[str, float | None]]:
    """Return the scores of transcribed items by language, in alphabetical order, and for "all"."""
    all_pairs = []
    pairs_by_language: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        pair = (row["text"], row["heard"])
        all_pairs.append(pair)
        pairs_by_language.setdefault(row["language"], []).append(pair)

    languages = sorted(pairs_by_language)
    scores = {}
    for language in languages:
        scores[language] = compute_scores(pairs_by_language[language], language)

    # BLEU splits all texts by the rule of their language, if they have the same.
    if len(languages) == 1:
        scores["all"] = compute_scores(all_pairs, languages[0])
    elif all_pairs:
        scores["all"] = compute_scores(all_pairs)
    return scores


def evaluate_item(
    item: Item, result: Result | ValueError, clean: Callable[[str], str]
) -> dict[str, str | float | None]:
    """Return the row of an item among the "items" of evaluate_results."""
    from jiwer import process_words

    text = clean(item.text)
    row = {"audio": str(item), "language": item.language or "-", "text": text}
    if isinstance(result, ValueError):
        row["error"] = str(result).removeprefix(f"{item.audio}: ")
        return row

    heard = clean(result.text)
    row["language"] = result.language or row["language"]
    row["heard"] = heard
    row["wer"] = None
    if not are_empty(text, heard):
        row["wer"] = process_words(text, heard).wer
    return row


def align_words(row: dict) -> str:
    """Return an item's text above its transcription, aligned word by word."""
    from jiwer import process_words, visualize_alignment

    words = process_words(row["text"], row["heard"])
    page = visualize_alignment(words, show_measures=False)
    return page.split("\n\n")[1].rstrip()  # the part after the heading


def render_evaluation(evaluation: dict) -> str:
    """Return what evaluate_results returned as text: scores by language, then the worst items."""
    table = [["", *SCORES]]
    for language, scores in evaluation["scores"].items():
        table.append([language, *format_scores(scores)])

    # Columns are aligned on the right.
    widths = [max(map(len, column)) for column in zip(*table)]
    text = ""
    for cells in table:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths)]
        text += "  ".join(aligned) + "\n"

    for row in evaluation["worst"]:
        text += f"\n{row['audio']}  {row['language']}  WER {row['wer']:.2f}\n{row['alignment']}\n"
    return text


def format_scores(scores: dict[str, float | None]) -> list[str]:
    """Return the cells of a row of the table; "-" for a score that no item counts in."""
    cells = []
    for name, score_format in SCORES.items():
        if scores[name] is None:
            cells.append("-")
        else:
            cells.append(format(scores[name], score_format))
    return cells
