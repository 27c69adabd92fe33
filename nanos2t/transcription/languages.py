"""Find languages by code or by English name."""

from collections.abc import Iterable

# ISO 639-1 codes. Checkpoints have them alone or with a region: "de" or "de_DE".
NAMES = {
    "af": "afrikaans",
    "ar": "arabic",
    "az": "azerbaijani",
    "bg": "bulgarian",
    "bn": "bengali",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "gl": "galician",
    "gu": "gujarati",
    "he": "hebrew",
    "hi": "hindi",
    "hr": "croatian",
    "hu": "hungarian",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian",
    "ja": "japanese",
    "ka": "georgian",
    "kk": "kazakh",
    "km": "khmer",
    "ko": "korean",
    "lt": "lithuanian",
    "lv": "latvian",
    "mk": "macedonian",
    "ml": "malayalam",
    "mn": "mongolian",
    "mr": "marathi",
    "my": "burmese",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "ps": "pashto",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "si": "sinhala",
    "sk": "slovak",
    "sl": "slovenian",
    "sv": "swedish",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "th": "thai",
    "tl": "tagalog",
    "tr": "turkish",
    "uk": "ukrainian",
    "ur": "urdu",
    "vi": "vietnamese",
    "xh": "xhosa",
    "zh": "chinese",
}


def find_language(name: str, codes: Iterable[str]) -> str:
    """Return the one of a model's language codes that `name` means.

    name: the code itself, its language without the region, or the English name of the language.
    Raises ValueError if none or several of the codes fit.
    """
    codes = list(codes)
    if name in codes:
        return name

    word = str(name).strip().lower()
    matches = []
    for code in codes:
        language = code[:2]
        if word in (code.lower(), language.lower(), NAMES.get(language)):
            matches.append(code)
    if len(matches) != 1:
        raise ValueError(
            f"unknown language {name!r}, the model's are: {', '.join(codes) or 'none'}"
        )
    return matches[0]
