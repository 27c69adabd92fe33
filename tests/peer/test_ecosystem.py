# pytest tests/peer/test_ecosystem.py
"""What people put around a model: DataParallel, Trainer, LoRA of peft, accelerate."""

import pytest
import torch
from helpers.half_files import read_with_transformers
from helpers.pairs import IDS
from helpers.sides import Ours, batch, our_model, tokens
from torch import nn
from torch.nn.parallel import scatter_gather
from torch.utils.data import DataLoader, Dataset

from nanos2t.model import Output, SpeechEncoderDecoder

FAMILY = "base + bert"


class Clips(Dataset):
    """The clips of `batch`, as a data set gives them: one at a time."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in batch(torch.float32).items()}


@pytest.fixture
def model(tmp_path) -> SpeechEncoderDecoder:
    """A model in float32 that a test may change."""
    return Ours().copy(FAMILY, tmp_path / "model").float().train()


def take_steps(model: nn.Module, steps: int) -> None:
    """Train by hand: the gradient of the whole batch, and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch(torch.float32)).loss.backward()
        optimizer.step()


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for (name, weight), expected in zip(one.named_parameters(), other.parameters()):
        assert torch.allclose(weight, expected, rtol=0, atol=1e-7), name


# torch


def test_data_parallel_puts_outputs_together(monkeypatch):
    """On the CPU there is nothing to split; how outputs of parts are joined is tested by hand."""
    model = our_model(FAMILY)
    with torch.no_grad():
        output = nn.DataParallel(model)(**batch())
        parts = [
            model(**{name: values[i : i + 1] for name, values in batch().items()}) for i in (0, 1)
        ]
    assert isinstance(output, Output)

    class Gather:
        """torch's own copies between GPUs; a number becomes a row."""

        @staticmethod
        def apply(device, dim, *tensors):
            return torch.cat([tensor.reshape(-1, *tensor.shape[1:]) for tensor in tensors])

    monkeypatch.setattr(scatter_gather, "Gather", Gather)
    gathered = scatter_gather.gather(parts, "cpu")
    assert isinstance(gathered, Output)
    assert torch.allclose(gathered.logits, output.logits, rtol=0, atol=1e-10)
    assert torch.allclose(gathered.memory, output.memory, rtol=0, atol=1e-10)
    assert torch.equal(gathered.frame_lengths, output.frame_lengths)
    assert gathered.loss.shape == (2,)


@pytest.mark.gpu
def test_data_parallel_on_a_gpu():
    model = Ours.model_class.from_configs(*our_configs()).cuda()
    arguments = {name: values.cuda() for name, values in batch(torch.float32).items()}
    output = nn.DataParallel(model)(**arguments)
    output.loss.mean().backward()
    assert output.logits.shape == (2, 6, 43)


def our_configs() -> tuple:
    model = our_model(FAMILY)
    return model.encoder.config, model.decoder.config, model.generation


@pytest.fixture
def accelerate():
    """The package, which keeps its settings for the whole process: without those of before."""
    package = pytest.importorskip("accelerate")
    package.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield package
    package.state.AcceleratorState._reset_state(reset_partial_state=True)


# transformers


@pytest.mark.slow
def test_a_step_of_the_trainer_is_a_step(model, tmp_path, accelerate):
    """transformers.Trainer takes the loss by its place, and trains all weights."""
    from transformers import Trainer, TrainingArguments

    twin = Ours().copy(FAMILY, tmp_path / "twin").float().train()
    before = twin.decoder.embed.tokens.weight.clone()
    take_steps(twin, 2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    result = Trainer(model=model, args=arguments, train_dataset=Clips()).train()
    assert result.training_loss > 0
    assert_same_weights(model, twin)
    assert not torch.equal(model.decoder.embed.tokens.weight, before)


# peft


@pytest.mark.slow
def test_lora_trains_few_weights_and_is_merged(model, tmp_path):
    """Merged, the model is saved, and transformers reads it with the same logits."""
    peft = pytest.importorskip("peft")
    expected = {name: weight.clone() for name, weight in model.named_parameters()}
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(model, config)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    take_steps(adapted, 2)

    # A model with LoRA inside is not saved; merged, its weights have their names again.
    with pytest.raises(ValueError, match="merge LoRA layers first"):
        model.save_pretrained(tmp_path / "never")
    adapted.eval()
    arguments = {"input_values": batch(torch.float32)["input_values"]}
    arguments["decoder_input_ids"] = tokens()
    with torch.no_grad():
        logits = adapted(**arguments).logits
        merged = adapted.merge_and_unload()
        assert isinstance(merged, SpeechEncoderDecoder)
        assert torch.allclose(merged(**arguments).logits, logits, rtol=0, atol=1e-4)
        theirs = read_with_transformers(merged.double(), tmp_path / "merged")
        arguments["input_values"] = arguments["input_values"].double()
        assert torch.allclose(
            theirs(**arguments).logits, merged(**arguments).logits, rtol=0, atol=1e-10
        )

    # Only what was adapted has changed.
    changed = [
        name
        for name, weight in merged.named_parameters()
        if not torch.equal(weight.float(), expected[name])
    ]
    assert changed
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)


@pytest.mark.slow
def test_lora_with_checkpointed_blocks(model):
    """The inputs of the blocks need no gradient then, but LoRA's weights get theirs."""
    peft = pytest.importorskip("peft")
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(model, config)
        switch()
        adapted(**batch(torch.float32)).loss.backward()
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        gradients.append([weight.grad for weight in trained])
        adapted.unload()
    assert len(gradients[0]) == 2 * (3 + 2 * 2)
    for without, recomputed in zip(*gradients):
        assert torch.allclose(recomputed, without, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_model_with_lora_generates(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=True)
    waveforms = batch(torch.float32)["input_values"]
    model.eval()
    plain = model.generate(waveforms, max_new_tokens=4)
    adapted = peft.get_peft_model(model, config).eval()
    # LoRA begins as nothing: B is zero.
    assert torch.equal(adapted.generate(waveforms, max_new_tokens=4, **IDS), plain)


# accelerate


@pytest.mark.slow
def test_accelerate_trains_and_gives_the_model_back(model, tmp_path, accelerate):
    twin = Ours().copy(FAMILY, tmp_path / "twin").float().train()
    take_steps(twin, 2)

    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = DataLoader(Clips(), batch_size=2)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for _ in range(2):
        for arguments in loader:
            optimizer.zero_grad()
            accelerator.backward(prepared(**arguments).loss)
            optimizer.step()
    trained = accelerator.unwrap_model(prepared)
    assert isinstance(trained, SpeechEncoderDecoder)
    assert_same_weights(trained, twin)
    trained.save_pretrained(tmp_path / "trained")
    again = SpeechEncoderDecoder.from_pretrained(tmp_path / "trained")
    assert_same_weights(again, twin)


@pytest.mark.slow
def test_accelerate_in_bfloat16_keeps_the_output(model, accelerate):
    """Autocast around the forward; what comes out is an Output of float32 again."""
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(model)
    output = prepared(**batch(torch.float32))
    assert isinstance(output, Output)
    assert output.logits.dtype == torch.float32
    accelerator.backward(output.loss)
    expected = our_model(FAMILY)(**batch()).loss
    assert abs(output.loss.item() - expected.item()) < 0.1 * expected.item()
