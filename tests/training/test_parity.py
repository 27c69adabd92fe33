# pytest tests/training/test_parity.py
"""Ten steps beside transformers' model and torch's AdamW; families learn eight clips by heart."""

import json
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.pairs import DECODERS, ENCODERS, pair_of
from torch import nn

import nanos2t
from nanos2t import pretrained, remap
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.batches import plan_batches
from nanos2t.training.config import TrainConfig
from nanos2t.training.dataset import BatchDataset
from nanos2t.training.examples import select_examples
from nanos2t.training.loop import LossStream
from nanos2t.training.losses import TrainingModule
from nanos2t.training.manifest import read_manifest
from nanos2t.training.run import run_training
from nanos2t.training.schedule import decay_groups, learning_rate
from nanos2t.training.start import rebuild_model

OFF = dict.fromkeys(
    (
        "hidden_dropout",
        "attention_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "layerdrop",
        "mask_time_prob",
    ),
    0.0,
)


# Each decoder once, and encoders in turns; test_ten_steps... compares every pair with transformers.
WHOLE_FAMILIES = [decoder for decoder in DECODERS if "," not in decoder]
LEARNERS = ("base", "xls-r with adapter", "hubert", "unispeech", "unispeech-sat")
FAMILIES = list(zip(cycle(LEARNERS), WHOLE_FAMILIES))


FEW = [("base", "bert"), ("xlsr-53", "gpt2"), ("xls-r with adapter", "mbart"), ("hubert", "bart")]


def word_pair(encoder: str, decoder: str, folder: Path):
    """transformers' pair in folder/model, with 43 words for a vocabulary, and a manifest."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pytest.importorskip("transformers")
    theirs = pair_of(encoder, decoder)
    theirs.save_pretrained(folder / "model")
    words = ["<unk>", "<pad>", "<s>", "</s>", *(f"w{i}" for i in range(4, 43))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "model" / "tokenizer.json"))
    rng = np.random.default_rng(3)
    rows = []
    for i in range(8):
        samples = 0.3 * rng.standard_normal(int(rng.integers(150, 260)))
        soundfile.write(folder / f"{i}.wav", samples, 16000, subtype="FLOAT")
        text = " ".join(words[token] for token in rng.integers(4, 43, rng.integers(2, 5)))
        rows.append({"audio": f"{i}.wav", "text": text})
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        pair if pair in FEW else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in product(ENCODERS, DECODERS)
    ],
)
def test_ten_steps_are_those_of_transformers_and_torch(encoder, decoder, tmp_path: Path):
    """Two clips a step, each a batch: transformers' group norm and adapters see padding."""
    theirs = word_pair(encoder, decoder, tmp_path)
    config = TrainConfig(
        model=str(tmp_path / "model"),
        train=str(tmp_path / "a.jsonl"),
        output=str(tmp_path / "run"),
        dtype="float64",
        batch_seconds=0.001,
        accumulate=2,
        steps=10,
        warmup_steps=3,
        learning_rate=1e-3,
        **OFF,
    )
    run_training(config)
    stt = nanos2t.load(tmp_path / "model", dtype=torch.float64)
    stt.model = rebuild_model(stt.model, config, 43)  # without dropout and masks
    examples, _ = select_examples(stt, read_manifest(config.train), config)
    clips = BatchDataset(stt, examples, config)
    keys = plan_batches(clips.examples, config, 0, 0, 1)
    optimizer = torch.optim.AdamW(decay_groups(theirs, 0.01), betas=(0.9, 0.98))
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad()
        for batch in (clips[next(keys)], clips[next(keys)]):
            labels = {"labels": batch.labels, "decoder_input_ids": batch.decoder_input_ids}
            loss = theirs(input_values=batch.input_values.double(), **labels).loss
            (loss * (batch.labels != -100).sum() / batch.step_labels).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        if step == 0:
            same_loss_and_gradients(theirs, stt, clips, config)
        optimizer.step()
    got = SpeechEncoderDecoder.from_pretrained(tmp_path / "run" / "last", dtype=torch.float64)
    want = remap.import_state(
        pretrained.table_rows(got.families), theirs.state_dict(), stt.model.state_dict()
    )
    got = got.state_dict()
    start = stt.model.state_dict()
    assert max(float((got[name] - want[name]).abs().max()) for name in got) < 1e-7
    assert max(float((got[name] - start[name]).abs().max()) for name in got) > 1e-3


def same_loss_and_gradients(theirs, stt, clips, config: TrainConfig) -> None:
    """The gradients of transformers' model are those of our first step, as they are clipped."""
    losses = LossStream(stt, TrainingModule(stt.model, config), clips.examples, config)
    for loss in losses(0):
        loss.backward()
    nn.utils.clip_grad_norm_(stt.model.parameters(), 1.0)
    gradients = {
        n: p.grad for n, p in theirs.named_parameters(remove_duplicate=False) if p.grad is not None
    }
    wanted = remap.import_state(
        pretrained.table_rows(stt.model.families), gradients, stt.model.state_dict()
    )
    for name, parameter in stt.model.named_parameters():
        if name in wanted or parameter.grad is not None:
            assert (parameter.grad - wanted[name]).abs().max() < 1e-9, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("encoder", "decoder"), FAMILIES)
def test_eight_clips_are_learned_by_heart(encoder, decoder, tmp_path: Path):
    word_pair(encoder, decoder, tmp_path)
    config = TrainConfig(
        model=str(tmp_path / "model"),
        random="both",
        vocabulary="characters",
        train=str(tmp_path / "a.jsonl"),
        dev=str(tmp_path / "a.jsonl"),
        output=str(tmp_path / "run"),
        steps=400,
        learning_rate=5e-3,
        warmup_steps=20,
        validate_every=400,
        save_every=400,
        best="exact",
        weight_decay=0.0,
        **OFF,
    )
    run_training(config)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["dev_loss"] < 0.01 and last["exact"] == 1.0
