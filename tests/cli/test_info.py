# pytest tests/cli/test_info.py
"""nanos2t/cli/info.py; tests/inspection/test_info.py has what it prints in detail."""

from helpers.tiny import LANGUAGES


def test_info(run, model, stt):
    code, out, err = run("info", model)
    # A long row goes on in lines that are indented.
    rows = [line for line in out if not line.startswith(" " * 12)]
    table = dict(line.split(maxsplit=1) for line in rows)
    assert (code, err) == (0, []) and len(table) == len(rows)
    assert table["parameters"] == f"{sum(weight.numel() for weight in stt.model.parameters()):,}"
    assert set(table["languages"].split(", ")) == set(LANGUAGES) and table["audio"].startswith(
        "8000 Hz"
    )
    assert "hidden_size=15" in table["encoder"] and table["encoder"].startswith("wav2vec2")
    assert "vocab_size=40" in table["decoder"] and table["decoder"].startswith("bert")
    assert "decoder_start_token_id=1" in table["ids"] and table["generation"] == "max_length=12"
    code, out, err = run("info")
    [languages] = [line for line in out if line.startswith("languages")]
    assert (code, err) == (0, []) and "verbatim" in languages
