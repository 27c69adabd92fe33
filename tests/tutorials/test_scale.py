# pytest tests/tutorials/test_scale.py (and with -m slow: memory, and bytes between two processes)
"""tutorials/recipes/scale.py counts; measured here: what autograd keeps, the peak of a step, what gloo sends."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scale
import torch
from scale import Machine, Step
from torch.nn import functional as F

from nanos2t.decoder import DecoderConfig, DecoderTraining
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

ROOT = Path(__file__).parents[2]
ENCODER = {
    "hidden_size": 24, "num_layers": 2, "num_heads": 3, "intermediate_size": 40, "conv_channels": (6, 8, 10),
    "conv_kernels": (10, 3, 2), "conv_strides": (5, 2, 2), "position_kernel": 8, "position_groups": 4,
}  # fmt: skip
SAME = ENCODER | {"hidden_size": 28, "num_heads": 4}
DECODER = {
    "hidden_size": 28,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 36,
    "max_positions": 64,
}
PAIRS = {
    "base + bert": (EncoderConfig, ENCODER, DecoderConfig.bert),
    "large, adapter + mbart": (EncoderConfig.large, ENCODER | {"adapter_layers": 2}, DecoderConfig.mbart),
    "large, wide adapter + gpt2": (
        EncoderConfig.large, ENCODER | {"adapter_layers": 1, "adapter_size": 28}, DecoderConfig.gpt2
    ),
    "large, same width + bart": (EncoderConfig.large, SAME, DecoderConfig.bart),
    "base, same width + bert": (EncoderConfig, SAME, DecoderConfig.bert),
    "large, adapter, same width + mbart": (
        EncoderConfig.large, SAME | {"adapter_layers": 3}, DecoderConfig.mbart
    ),
}  # fmt: skip


def pair(name: str, rate: float = 0.0) -> SpeechEncoderDecoder:
    kind, encoder, decoder = PAIRS[name]
    training = EncoderTraining(rate, rate, 0.0, rate, 0.0)
    return SpeechEncoderDecoder.from_configs(
        kind(**encoder, training=training),
        decoder(50, **DECODER, training=DecoderTraining(rate, 0.0, rate)),
    )


def loss_of(model: SpeechEncoderDecoder, step: Step) -> torch.Tensor:
    values = torch.randn(step.clips, step.samples)
    tokens = torch.randint(3, model.decoder.config.vocab_size, (step.clips, step.tokens))
    with torch.autocast("cpu", torch.bfloat16, enabled=step.bfloat16):
        logits = model.train()(values, decoder_input_ids=tokens).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum")


def kept(model: SpeechEncoderDecoder, step: Step) -> int:
    """Bytes of all storages that autograd keeps, the parameters excepted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found, alive = {}, []

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss_of(model, step)
    return sum(found.values())


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("bfloat16, rate", [(False, 0.0), (False, 0.1), (True, 0.0)])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_for_the_backward_pass(name, bfloat16, rate, frozen):
    model = pair(name, rate)
    step = Step(3, 1000, 7, bfloat16=bfloat16, frozen=frozen, cpu=True)
    if frozen:
        model.freeze_feature_encoder()
    counted = sum(stage.kept for stage in scale.stages(model, step)) + scale.copies(model, step)
    assert 0 <= kept(model, step) - counted <= 300, (
        "more than positions, labels and the taps' norms"
    )


def test_the_parts_have_all_parameters_once():
    for name in PAIRS:
        model = pair(name)
        model.encoder.masked_spec_embed.requires_grad_(False)  # SpecAugment's vector: no part's
        assert sum(stage.parameters for stage in scale.stages(model, Step())) == scale.count(model)
        own, root = scale.groups(model)
        assert (
            sum(own) + root == sum(p.numel() for p in model.parameters()) and len(own) == 2 + 3 * 3
        )


def test_operations_are_two_for_each_weight_and_row():
    model = pair("large, same width + bart")
    step = Step(3, 1000, 7)
    frames, rows = 3 * scale.frames_of(model, 1000)[-1], 21
    encoder = sum(
        p.numel() for block in model.encoder.blocks for p in block.parameters() if p.ndim > 1
    )
    memory = sum(
        part.weight.numel()
        for block in model.decoder.blocks
        for part in (block.cross_attn.k_proj, block.cross_attn.v_proj)
    )
    decoder = sum(
        p.numel() for block in model.decoder.blocks for p in block.parameters() if p.ndim > 1
    )
    products = 2 * (frames * (encoder + memory) + rows * (decoder - memory + 50 * 28))
    scores = 4 * 28 * (2 * frames**2 / 3 + 3 * (rows**2 + rows * frames) / 3)
    forward, backward = scale.flops(model.to("meta"), step)
    convs = forward - products - scores
    assert 0 < convs < 0.5 * forward and 1.8 * forward < backward < 2.2 * forward
    checkpoint = scale.flops(model, replace(step, checkpoint=True))
    assert 0.5 * forward < checkpoint[1] - backward < forward and checkpoint[0] == forward


def test_sharing_saves_what_it_should():
    model = scale.pair(None)
    alone, ddp, shard = (
        scale.memory(model, Step(), size, sharded)
        for size, sharded in ((1, False), (8, False), (8, True))
    )
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, 2) == 792.99  # facebook/wav2vec2-xls-r-300m-en-to-15
    assert ddp["weights"] + ddp["gradients"] + ddp["AdamW"] == 16 * total
    assert shard["weights"] + shard["gradients"] + shard["AdamW"] == pytest.approx(2 * total)
    assert alone["total"] < ddp["total"] and shard["total"] < ddp["total"]
    fewer = scale.memory(model, Step(checkpoint=True))
    assert fewer["activations"] < 0.9 * alone["activations"]
    assert scale.wire(model, 1, False) == 0
    assert scale.wire(model, 64, False) == pytest.approx(8 * total * 63 / 64)
    assert (
        scale.wire(model, 8, False) < scale.wire(model, 8, True) < 1.5 * scale.wire(model, 8, False)
    )


def test_time_follows_the_machine():
    model, step = pair("base + bert").to("meta"), Step(3, 1000, 7)
    slow, fast = (scale.seconds(model, step, Machine(flops=f), 1, False) for f in (1e12, 2e12))
    assert (
        slow["compute"] == pytest.approx(2 * fast["compute"]) and slow["send"] == slow["wait"] == 0
    )
    hidden, seen = (
        scale.seconds(model, step, Machine(network=speed), 16, False) for speed in (1e15, 1e3)
    )
    assert hidden["wait"] == 0 < seen["wait"] < seen["send"]
    assert seen["step"] == pytest.approx(seen["compute"] + seen["wait"] + seen["update"])


def test_the_page_has_what_the_script_prints():
    done = subprocess.run(
        [sys.executable, ROOT / "tutorials" / "recipes" / "scale.py"], capture_output=True, text=True, cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / "tutorials" / "scale.md").read_text()


PEAK = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
from functools import partial
from torch.utils.checkpoint import checkpoint
import scale, test_scale
from nanos2t.model import SpeechEncoderDecoder
def now(name):
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(name) + 1]) * 1024
torch.set_num_threads(1)
warm = test_scale.pair("base + bert")  # all libraries are loaded
test_scale.loss_of(warm, scale.Step(1, 4000, 5, bfloat16=False)).backward()
torch.optim.AdamW(warm.parameters()).step()
before = now("VmRSS:")
model = {model}
step = scale.Step({clips}, {samples}, 40, bfloat16=False, frozen={frozen}, checkpoint={checkpoint}, cpu=True)
if step.frozen:
    model.freeze_feature_encoder()
for block in (*model.encoder.blocks, *model.decoder.blocks) if step.checkpoint else ():
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
small = scale.Step(1, 4000, 5, bfloat16=False)
for chosen in small, step:
    optimizer.zero_grad()
    if chosen is step:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    test_scale.loss_of(model, chosen).backward()
    if chosen is step:
        peak = now("VmHWM:") - before
    optimizer.step()
print(json.dumps([peak, scale.memory(model, step)]))
"""
BASE = (
    "SpeechEncoderDecoder.from_configs(scale.EncoderConfig(training=scale.EncoderTraining(0.1, 0.1, 0.0, \
0.0, 0.0)), scale.DecoderConfig.bert())"
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "frozen, checkpoint, clips, samples",
    [(False, False, 2, 80_000), (True, False, 2, 120_000), (True, True, 2, 120_000)],
)
def test_peak_of_a_step_at_base_size(frozen, checkpoint, clips, samples):
    code = PEAK.format(
        paths=[str(ROOT), str(ROOT / "tutorials" / "recipes"), str(ROOT / "tests")], model=BASE, clips=clips,
        samples=samples, frozen=frozen, checkpoint=checkpoint,
    )  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    measured, counted = json.loads(done.stdout)
    print(f"measured {measured / 1e9:.3f} GB, counted {counted['total'] / 1e9:.3f} GB", counted)
    assert 0.97 < measured / counted["total"] < 1.05


WIRE = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
from torch import distributed
import scale, test_scale
from nanos2t.training.distributed import wrap_distributed
from nanos2t.training.config import TrainConfig
from nanos2t.training.losses import TrainingModule
def received():
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.strip().startswith("lo:")))
torch.set_num_threads(1)
distributed.init_process_group("gloo")
sizes = dict(hidden_size=192, num_layers=4, num_heads=6, intermediate_size=768)
training = scale.EncoderTraining(mask_time_prob=0.0, layerdrop=0.0)
encoder = scale.EncoderConfig(**sizes, conv_channels=(32, 32), conv_kernels=(10, 8), conv_strides=(5, 8),
                              training=training)
model = scale.SpeechEncoderDecoder.from_configs(encoder, scale.DecoderConfig.bert(2000, **sizes))
counted = scale.wire(model, 2, {shard}) + {shard} * scale.count(model) * 4 * 0.5
config, labels = TrainConfig(shard={shard}), torch.randint(3, 1000, (1, 5))
module, found = wrap_distributed(TrainingModule(model, config), config), []
for _ in range(8):
    distributed.barrier()
    before = received()
    module(torch.randn(1, 4000), None, None, labels, labels, labels).backward()
    distributed.barrier()
    found.append((received() - before) / (2 * counted))
if not {shard}:
    buckets = {{p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}}
    assert len(buckets) < 5, "gradients lie beside the buckets"
if distributed.get_rank() == 0:
    print(min(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="needs /proc")
def test_bytes_between_two_processes(tmp_path):
    """All that passes the loopback in a step, by both; gloo scatters sums by summing for all, twice the
    bytes. Others who use the loopback add to it: the least of eight steps counts."""
    paths = [str(ROOT), str(ROOT / "tutorials" / "recipes"), str(ROOT / "tests")]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    for shard in False, True:
        (tmp_path / "wire.py").write_text(WIRE.format(paths=paths, shard=shard))
        done = subprocess.run([*command, tmp_path / "wire.py"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(f"measured / counted: {float(done.stdout):.4f}")
        assert 1 <= float(done.stdout) < 1.03
