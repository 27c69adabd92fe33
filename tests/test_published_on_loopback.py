# pytest -m slow tests/test_published_on_loopback.py
"""The tests of the hub's checkpoints, with a hub on the loopback that serves tiny stand-ins.

What they ask for, load and compare is the same; only the answers are those of the stand-ins.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.loopback_hub import reach_hub, serve_hub
from helpers.paths import ROOT
from helpers.published_repos import PAIRS, publish_distilhubert, publish_pair, publish_recordings

pytest.importorskip("pyarrow")
pytest.importorskip("transformers")

DATASET = "hf-internal-testing/librispeech_asr_dummy"
# In the order of the answers; from the texts that the vocabularies were trained on.
SENTENCES = [
    "Die Mädchen sprechen schnell, die Vögel hören zu.",
    "The boat left the harbour before sunrise, and nobody on the quay said a word.",
    "Über den grünen Hügeln fließt ein kleiner Fluß.",
    "We counted the waves: one, two, three… then the wind changed.",
    "Zwölf Äpfel kosten 3,50 €.",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[dict, dict]:
    """Folders of all repositories that the tests ask for, and their answers."""
    root = tmp_path_factory.mktemp("published")
    waveforms = publish_recordings(root / DATASET)
    repos = {DATASET: {"main": root / DATASET}}
    real = json.loads((ROOT / "tests/data/published_answers.json").read_text("utf-8"))
    answers = {"sentences": {}}
    for (name, answer), text in zip(real["sentences"].items(), SENTENCES, strict=True):
        publish_pair(name, root / name, waveforms[answer["utterance"]], text)
        repos[name] = {"main": root / name}
        answers["sentences"][name] = answer | {"text": text}
    name = "ntu-spml/distilhubert"
    utterance = real["distilhubert"]["utterance"]
    numbers = publish_distilhubert(root / name, waveforms[utterance])
    repos[name] = {"main": root / name}
    answers["distilhubert"] = {"utterance": utterance} | numbers
    return repos, answers


def run_hub_tests(repos: dict, answers: dict, folder: Path, *options: str) -> tuple[int, str]:
    """Run the tests marked `hub` in a process that reaches the loopback alone."""
    path = folder / "answers.json"
    path.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    with serve_hub(repos) as server:
        environment = reach_hub(server, folder / "cache")
        environment |= {"NANOS2T_HUB": "1", "NANOS2T_ANSWERS": str(path)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "hub",
             "tests/test_published_hub.py", *options],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_hub_tests_pass_on_stand_ins(published, tmp_path):
    repos, answers = published
    assert set(answers["sentences"]) == set(PAIRS)
    code, text = run_hub_tests(repos, answers, tmp_path)
    assert code == 0, text
    assert "6 passed" in text
    assert "skipped" not in text


@pytest.mark.slow
def test_the_hub_tests_fail_with_other_answers(published, tmp_path):
    """Another sentence, and numbers that are a little off."""
    repos, answers = published
    wrong = json.loads(json.dumps(answers))
    wrong["sentences"]["patrickvonplaten/wav2vec2-2-bart-base"]["text"] += "x"
    wrong["distilhubert"]["frames"][3][3] += 0.1
    code, text = run_hub_tests(repos, wrong, tmp_path, "-k", "bart-base or distilhubert")
    assert code == 1, text
    assert "2 failed" in text
