"""The pair as graphs of tensors alone, which ONNX Runtime and OpenVINO can run.

Three graphs: `encoder`, waveform to memory; `memory`, the memory to the keys and values of every
cross-attention; `step`, one token of each row, with the keys and values of past tokens coming in
and going out. The step also picks the rows that beams continue, and ends in log-probabilities, so
that a search outside has little left to do.

Shapes: R rows, P past tokens, V vocab_size; N, S, D as in nanos2t/decoder.py.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from nanos2t.model import SpeechEncoderDecoder

GRAPHS = ("encoder", "memory", "step")


class PastKeysValues:
    """What stands for nanos2t.decoder.KVCache in a graph: it returns new tensors."""

    def __init__(self, keys: Tensor, values: Tensor, parent_rows: Tensor):
        self.keys = keys.index_select(0, parent_rows)  # (R, N, P, D)
        self.values = values.index_select(0, parent_rows)  # (R, N, P, D)
        self.length = keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat([self.keys, keys], dim=2)  # (R, N, P + 1, D)
        self.values = torch.cat([self.values, values], dim=2)  # (R, N, P + 1, D)
        return self.keys, self.values


class EncoderGraph(nn.Module):
    def __init__(self, model: SpeechEncoderDecoder):
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor) -> Tensor:  # (1, L)
        return self.model.encode(waveform)[0]  # (1, S, H)


class MemoryGraph(nn.Module):
    def __init__(self, model: SpeechEncoderDecoder):
        super().__init__()
        self.decoder = model.decoder

    def forward(self, memory: Tensor) -> tuple[Tensor, ...]:  # (1, S, H)
        return tuple(tensor for pair in self.decoder.project_memory(memory) for tensor in pair)


class StepGraph(nn.Module):
    def __init__(self, model: SpeechEncoderDecoder):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        tokens: Tensor,  # (R, 1)
        position: Tensor,  # (1,), P
        parent_rows: Tensor,  # (R,)
        cross: list[Tensor],  # keys and values of each block in turn, (1, N, S, D)
        past: list[Tensor],  # likewise, (R, N, P, D)
    ) -> tuple[Tensor, ...]:
        """Return log-probabilities (R, V), and the new past."""
        decoder = self.decoder
        embed = decoder.embed
        x = embed.tokens(tokens) + embed.positions(position) + embed.token_types.weight[0]
        x = embed.norm(x)  # (R, 1, H)

        new_past = []
        for i, block in enumerate(decoder.blocks):
            cache = PastKeysValues(past[2 * i], past[2 * i + 1], parent_rows)
            x = block(x, (cross[2 * i], cross[2 * i + 1]), None, cache)  # (R, 1, H)
            new_past += [cache.keys, cache.values]
        logits = decoder.head(decoder.norm(x), embed.tokens.weight)  # (R, 1, V)
        return logits[:, 0].log_softmax(dim=1), *new_past


def step_names(num_blocks: int) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the step's cross keys and values, of its past, and of its new past."""
    cross = []
    past = []
    new_past = []
    for i in range(num_blocks):
        for kind in "keys", "values":
            cross.append(f"cross_{kind}_{i}")
            past.append(f"past_{kind}_{i}")
            new_past.append(f"new_{kind}_{i}")
    return cross, past, new_past


@torch.no_grad()
def example_inputs(model: SpeechEncoderDecoder, samples: int) -> dict[str, tuple]:
    """Return inputs of the three graphs, with which they are recorded.

    samples: the length of the one waveform that the encoder's graph will take.
    """
    config = model.decoder.config
    rows = 3
    past_shape = (rows, config.num_heads, 5, config.hidden_size // config.num_heads)
    waveform = torch.randn(1, samples)
    memory = model.encode(waveform)[0]
    cross = list(MemoryGraph(model)(memory))
    past = [torch.randn(past_shape) for _ in cross]
    tokens = torch.full((rows, 1), 7)
    step = (tokens, torch.tensor([5]), torch.arange(rows), cross, past)
    return {"encoder": (waveform,), "memory": (memory,), "step": step}


def build_graphs(folder: Path) -> dict[str, nn.Module]:
    """Return the three graphs as modules of the core, of the pair that is saved in `folder`."""
    model = SpeechEncoderDecoder.from_pretrained(folder)
    return {"encoder": EncoderGraph(model), "memory": MemoryGraph(model), "step": StepGraph(model)}


@torch.no_grad()
def export_onnx(folder: Path, target: Path, samples: int) -> None:
    """Write encoder.onnx, memory.onnx and step.onnx of the pair in `folder` into `target`."""
    graphs = build_graphs(folder)
    examples = example_inputs(graphs["encoder"].model, samples)
    cross, past, new_past = step_names(len(graphs["step"].decoder.blocks))
    names = {
        "encoder": (["waveform"], ["memory"]),
        "memory": (["memory"], cross),
        "step": (["tokens", "position", "parent_rows", *cross, *past], ["logprobs", *new_past]),
    }
    axes = {"memory": {1: "S"}, "tokens": {0: "R"}, "parent_rows": {0: "R"}, "logprobs": {0: "R"}}
    axes |= {name: {2: "S"} for name in cross}
    axes |= {name: {0: "R", 2: "P"} for name in past}
    axes |= {name: {0: "R", 2: "P1"} for name in new_past}
    for name, graph in graphs.items():
        inputs, outputs = names[name]
        is_encoder = name == "encoder"
        changing = (
            {} if is_encoder else {key: axes[key] for key in (*inputs, *outputs) if key in axes}
        )
        torch.onnx.export(
            graph.eval(),
            examples[name],
            target / f"{name}.onnx",
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=changing,
            dynamo=is_encoder,
            external_data=False,
        )
