# pytest tests/test_stepping_through.py
"""A real debugger shows what tutorials/stepping_through.md says of its session."""

import re
import subprocess
import sys

from helpers.paths import ROOT

GUIDE = (ROOT / "tutorials" / "stepping_through.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(nanos2t\.[\w.]+)` \| `(.+?)` \| (\(.*?\)) \|", GUIDE, re.MULTILINE)
SCRIPT = "\n".join(re.findall(r"^    (.*)$", GUIDE.partition("`skip=")[0], re.MULTILINE))


def debug(script: str, *commands: str) -> list[str]:
    """What pdb prints while the script runs, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", script], input="\n".join([*commands, "q"]), capture_output=True,
        text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    return done.stdout.replace("(Pdb) ", "").splitlines()


def test_ten_breakpoints_stop_in_the_order_of_the_data():
    assert len(ROWS) == 10 and "set_trace" in SCRIPT
    commands = [f"tbreak {name}" for name, _, _ in ROWS]
    for name, expression, _ in ROWS:
        commands += ["c", f"p {name.rpartition('.')[2]!r}, tuple({expression}.shape)"]
    lines = debug(SCRIPT, *commands)
    functions = [re.search(r"\(\d+\)(\w+)\(", line) for line in lines if line.startswith("> ")]
    stops = [function[1] for function in functions if function][-10:]
    assert stops == [name.rpartition(".")[2] for name, _, _ in ROWS]
    shapes = [re.fullmatch(r"\('\w+', (\(.*\))\)", line) for line in lines]
    assert [shape[1] for shape in shapes if shape] == [shape for _, _, shape in ROWS]


def test_one_breakpoint_after_the_other():
    """Each is typed where the one before it stopped, in a file that may not import nanos2t."""
    import_line = re.search(r"^    \(Pdb\) (.*import nanos2t)$", GUIDE, re.MULTILINE)[1]
    commands = []
    for name, expression, _ in ROWS:
        commands += [import_line, f"tbreak {name}", "c", f"p tuple({expression}.shape)"]
    lines = debug(SCRIPT, *commands)
    assert [line for line in lines if line.startswith("(")] == [shape for _, _, shape in ROWS]


def test_attention_written_out_can_be_stepped_into():
    switch = re.search(r"^    (from nanos2t import wav2vec2)\n\n    (.*)$", GUIDE, re.MULTILINE)
    script = SCRIPT.replace("pdb.Pdb", f"{switch[1]}\n{switch[2]}\npdb.Pdb")
    lines = debug(
        script, "tbreak nanos2t.wav2vec2.attention_weights", "c", "n", "n", "p scores.shape"
    )
    assert "torch.Size([1, 6, 77, 77])" in lines


def test_step_goes_from_a_block_to_its_attention_without_torch():
    """`s` alone, from the first line of a block: no stop is in PyTorch's code."""
    commands = ["tbreak nanos2t.wav2vec2.Block.forward", "c", *["s"] * 12]
    places = [line for line in debug(SCRIPT, *commands) if line.startswith("> ")]
    assert not [place for place in places if "/torch/" in place]
    assert any("project_keys_values" in place for place in places), places
