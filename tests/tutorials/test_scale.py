# pytest tests/tutorials/test_scale.py (and with -m slow: memory, and bytes between two processes)
"""The counts of scale.py against what autograd keeps, the peak of a step, and what gloo sends."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scale
import torch
from helpers.small_pairs import PAIRS, build_small, compute_loss
from scale import Machine
from scale_activations import Step, sequence_lengths

from nanos2t.model import SpeechEncoderDecoder

ROOT = Path(__file__).parents[2]


def kept(model: SpeechEncoderDecoder, step: Step) -> int:
    """Bytes of all storages that autograd keeps, the parameters excepted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    actual = {}
    alive = []

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            actual[storage.data_ptr()] = storage.nbytes()
            alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        compute_loss(model, step)
    return sum(actual.values())


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("bfloat16, rate", [(False, 0.0), (False, 0.1), (True, 0.0)])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_for_the_backward_pass(name, bfloat16, rate, frozen):
    model = build_small(name, rate)
    step = Step(3, 1000, 7, bfloat16=bfloat16, frozen=frozen, cpu=True)
    if frozen:
        model.freeze_feature_encoder()
    counted = sum(stage.kept for stage in scale.list_stages(model, step)) + scale.autocast_bytes(
        model, step
    )
    assert 0 <= kept(model, step) - counted <= 300, (
        "more than positions, labels and the taps' norms"
    )


def test_the_parts_have_all_parameters_once():
    for name in PAIRS:
        model = build_small(name)
        model.encoder.masked_spec_embed.requires_grad_(False)  # SpecAugment's vector: no part's
        assert sum(
            stage.parameters for stage in scale.list_stages(model, Step())
        ) == scale.count_trained(model)
        own, root = scale.count_shard_groups(model)
        assert (
            sum(own) + root == sum(p.numel() for p in model.parameters()) and len(own) == 2 + 3 * 3
        )


def test_operations_are_two_for_each_weight_and_row():
    model = build_small("large, same width + bart")
    step = Step(3, 1000, 7)
    frames = 3 * sequence_lengths(model, 1000)[-1]
    rows = 21
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
    forward, backward = scale.count_flops(model.to("meta"), step)
    convs = forward - products - scores
    assert 0 < convs < 0.5 * forward and 1.8 * forward < backward < 2.2 * forward
    checkpoint = scale.count_flops(model, replace(step, checkpoint=True))
    assert 0.5 * forward < checkpoint[1] - backward < forward and checkpoint[0] == forward


def test_sharing_saves_what_it_should():
    model = scale.build_pair(None)
    alone, ddp, shard = (
        scale.count_memory(model, Step(), size, sharded)
        for size, sharded in ((1, False), (8, False), (8, True))
    )
    total = sum(p.numel() for p in model.parameters())
    assert round(total / 1e6, 2) == 792.99  # facebook/wav2vec2-xls-r-300m-en-to-15
    assert ddp["weights"] + ddp["gradients"] + ddp["AdamW"] == 16 * total
    assert shard["weights"] + shard["gradients"] + shard["AdamW"] == pytest.approx(2 * total)
    assert alone["total"] < ddp["total"] and shard["total"] < ddp["total"]
    fewer = scale.count_memory(model, Step(checkpoint=True))
    assert fewer["activations"] < 0.9 * alone["activations"]
    assert scale.count_sent(model, 1, False) == 0
    assert scale.count_sent(model, 64, False) == pytest.approx(8 * total * 63 / 64)
    assert (
        scale.count_sent(model, 8, False)
        < scale.count_sent(model, 8, True)
        < 1.5 * scale.count_sent(model, 8, False)
    )


def test_time_follows_the_machine():
    model = build_small("base + bert").to("meta")
    step = Step(3, 1000, 7)
    slow, fast = (
        scale.estimate_seconds(model, step, Machine(flops=f), 1, False) for f in (1e12, 2e12)
    )
    assert (
        slow["compute"] == pytest.approx(2 * fast["compute"]) and slow["send"] == slow["wait"] == 0
    )
    hidden, seen = (
        scale.estimate_seconds(model, step, Machine(network=speed), 16, False)
        for speed in (1e15, 1e3)
    )
    assert hidden["wait"] == 0 < seen["wait"] < seen["send"]
    assert seen["step"] == pytest.approx(seen["compute"] + seen["wait"] + seen["update"])


def test_the_page_has_what_the_script_prints():
    done = subprocess.run(
        [sys.executable, ROOT / "tutorials" / "recipes" / "scale.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / "tutorials" / "scale.md").read_text()


PEAK = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
import scale
from helpers import small_pairs
from scale import Step
from nanos2t.model import SpeechEncoderDecoder
def now(name):
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(name) + 1]) * 1024
torch.set_num_threads(1)
warm = small_pairs.build_small("base + bert")  # all libraries are loaded
small_pairs.compute_loss(warm, Step(1, 4000, 5, bfloat16=False)).backward()
torch.optim.AdamW(warm.parameters()).step()
before = now("VmRSS:")
model = {model}
step = Step({clips}, {samples}, 40, bfloat16=False, frozen={frozen}, checkpoint={checkpoint},
            cpu=True)
if step.frozen:
    model.freeze_feature_encoder()
if step.checkpoint:
    model.gradient_checkpointing_enable()
optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
small = Step(1, 4000, 5, bfloat16=False)
for chosen in small, step:
    optimizer.zero_grad()
    if chosen is step:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    small_pairs.compute_loss(model, chosen).backward()
    if chosen is step:
        peak = now("VmHWM:") - before
    optimizer.step()
print(json.dumps([peak, scale.count_memory(model, step)]))
"""
BASE = (
    "SpeechEncoderDecoder.from_configs(scale.EncoderConfig("
    "training=scale.EncoderTraining(0.1, 0.1, 0.0, 0.0, 0.0)), scale.DecoderConfig.bert())"
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "frozen, checkpoint, clips, samples",
    [(False, False, 2, 80_000), (True, False, 2, 120_000), (True, True, 2, 120_000)],
)
def test_peak_of_a_step_at_base_size(frozen, checkpoint, clips, samples):
    code = PEAK.format(
        paths=[str(ROOT), str(ROOT / "tutorials" / "recipes"), str(ROOT / "tests")],
        model=BASE,
        clips=clips,
        samples=samples,
        frozen=frozen,
        checkpoint=checkpoint,
    )
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
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
import scale
from helpers import small_pairs
from scale import Step
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
convs = dict(conv_channels=(32, 32), conv_kernels=(10, 8), conv_strides=(5, 8))
encoder = scale.EncoderConfig(**sizes, **convs, training=training)
model = scale.SpeechEncoderDecoder.from_configs(encoder, scale.DecoderConfig.bert(2000, **sizes))
counted = scale.count_sent(model, 2, {shard}) + {shard} * scale.count_trained(model) * 4 * 0.5
config, labels = TrainConfig(shard={shard}), torch.randint(3, 1000, (1, 5))
module, found = wrap_distributed(TrainingModule(model, config), config), []
for _ in range(8):
    distributed.barrier()
    before = received()
    module(torch.randn(1, 4000), None, None, labels, labels, labels).backward()
    distributed.barrier()
    found.append((received() - before) / (2 * counted))
if not {shard}:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    buckets = {{gradient.untyped_storage().data_ptr() for gradient in gradients}}
    assert len(buckets) < 5, "gradients lie beside the buckets"
if distributed.get_rank() == 0:
    print(min(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="needs /proc")
def test_bytes_between_two_processes(tmp_path):
    """The bytes that both processes send over the loopback in a step.

    gloo scatters sums by summing for all, which takes twice the bytes. Other programs that use the
    loopback add to it, so the least of eight steps counts.
    """
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
        done = subprocess.run(
            [*command, tmp_path / "wire.py"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        print(f"measured / counted: {float(done.stdout):.4f}")
        assert 1 <= float(done.stdout) < 1.03
