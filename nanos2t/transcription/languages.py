"""Languages by code or by English name: ISO 639-1 codes, as they stand in checkpoints: "de" or "de_DE"."""

from collections.abc import Iterable

NAMES = """af afrikaans|ar arabic|az azerbaijani|bg bulgarian|bn bengali|ca catalan|cs czech|cy welsh
|da danish|de german|el greek|en english|es spanish|et estonian|eu basque|fa persian|fi finnish
|fr french|gl galician|gu gujarati|he hebrew|hi hindi|hr croatian|hu hungarian|id indonesian
|is icelandic|it italian|ja japanese|ka georgian|kk kazakh|km khmer|ko korean|lt lithuanian
|lv latvian|mk macedonian|ml malayalam|mn mongolian|mr marathi|my burmese|ne nepali|nl dutch
|no norwegian|pl polish|ps pashto|pt portuguese|ro romanian|ru russian|si sinhala|sk slovak
|sl slovenian|sv swedish|sw swahili|ta tamil|te telugu|th thai|tl tagalog|tr turkish|uk ukrainian
|ur urdu|vi vietnamese|xh xhosa|zh chinese"""
NAMES = dict(entry.split() for entry in NAMES.replace("\n", "").split("|"))


def find_language(wanted: str, known: Iterable[str]) -> str:
    """The code among `known` that is meant by itself, its first half or its name; else ValueError."""
    word = wanted.strip().lower()
    meant = {code: (code.lower(), code[:2].lower(), NAMES.get(code[:2])) for code in known}
    found = [wanted] if wanted in meant else [code for code in meant if word in meant[code]]
    if len(found) != 1:
        raise ValueError(
            f"unknown language {wanted!r}, the model's are: {', '.join(known) or 'none'}"
        )
    return found[0]
