# pytest tests/transcription/test_languages.py
"""nanos2t/transcription/languages.py: codes and names."""

import pytest

from nanos2t.transcription import languages

KNOWN = ("verbatim", "en", "de", "pt_XX", "zh_CN")


@pytest.mark.parametrize(
    "wanted, code",
    [
        ("de", "de"), ("DE", "de"), ("German", "de"), (" german ", "de"), ("verbatim", "verbatim"),
        ("pt_XX", "pt_XX"), ("pt", "pt_XX"), ("Portuguese", "pt_XX"), ("chinese", "zh_CN"),
    ],
)  # fmt: skip
def test_by_code_or_name(wanted: str, code: str):
    assert (
        languages.find_language(wanted, KNOWN)
        == languages.find_language(wanted, dict.fromkeys(KNOWN))
        == code
    )


@pytest.mark.parametrize(
    "wanted", ["", " ", "xx", "ger", "french", "d", "de_", "klingon", 3, float("nan")]
)
def test_an_unknown_one_is_refused_with_the_list(wanted):
    with pytest.raises(ValueError, match=f"language {wanted!r}.*verbatim, en, de, pt_XX, zh_CN$"):
        languages.find_language(wanted, KNOWN)


def test_two_that_fit_are_refused():
    assert languages.find_language("pt_BR", ("pt_XX", "pt_BR")) == "pt_BR"
    for wanted in "pt", "portuguese":
        with pytest.raises(ValueError, match="pt_XX, pt_BR"):
            languages.find_language(wanted, ("pt_XX", "pt_BR"))


def test_names_are_one_word_each():
    assert len(languages.NAMES) == len(set(languages.NAMES.values())) > 50
    assert all(
        len(code) == 2 and name.isalpha() and name.islower()
        for code, name in languages.NAMES.items()
    )
