"""OpenVINO: the three graphs of export.py, in float32, in bfloat16, or with weights in int8.

int8 needs nncf: weights with a scale for each output channel, and inputs that the plugin quantises
as they come. The past is passed in and out of the step, without a copy.

The plugin compiles the attention of one query into a piece of code of its own (a "snippet"), which
in version 2026.4.1 is wrong for 16 keys or more, 8 with AVX2 alone, in every precision. So the step
is compiled without such pieces.
"""

from pathlib import Path

import numpy as np
import openvino

from tests.benchmarks.speed.search import Step

# The precision in which the plugin computes.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
GRAPHS = ("encoder", "memory", "step")


def prepare(folder: Path, target: Path, dtype: str, samples: int) -> None:
    """Write the graphs of the pair in `folder` into `target`, a sibling of float32's."""
    source = target.parent / "float32"
    if dtype == "float32" or not (source / "step.xml").exists():
        source.mkdir(parents=True, exist_ok=True)
        convert_graphs(folder, source, samples)
    for name in GRAPHS:
        model = openvino.Core().read_model(source / f"{name}.xml")
        if dtype == "int8":
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        if dtype != "float32":
            openvino.save_model(model, target / f"{name}.xml", compress_to_fp16=False)


def convert_graphs(folder: Path, target: Path, samples: int) -> None:
    """Write the graphs in float32; the encoder's takes one waveform of `samples`."""
    import torch

    from tests.benchmarks.speed.export import build_graphs, example_inputs, step_names

    graphs = build_graphs(folder)
    examples = example_inputs(graphs["encoder"].model, samples)
    cross, past, new_past = step_names(len(graphs["step"].decoder.blocks))
    names = {
        "encoder": ["waveform", "memory"],
        "memory": ["memory", *cross],
        "step": [
            *("tokens", "position", "parent_rows", *cross, *past),
            *("logprobs", *new_past),
        ],
    }
    _, heads, _, size = examples["step"][4][0].shape  # (R, N, P, D)
    for name, graph in graphs.items():
        with torch.no_grad():
            if name == "encoder":
                model = openvino.convert_model(torch.export.export(graph.eval(), examples[name]))
                model.reshape([1, samples])
            else:
                model = openvino.convert_model(graph.eval(), example_input=examples[name])
        for port, port_name in zip((*model.inputs, *model.outputs), names[name]):
            port.get_tensor().set_names({port_name})
        if name == "step":
            shapes = {port: [-1, heads, -1, size] for port in (*cross, *past)}
            model.reshape({"tokens": [-1, 1], "position": [1], "parent_rows": [-1]} | shapes)
        openvino.save_model(model, target / f"{name}.xml", compress_to_fp16=False)


class Model:
    """The pair, read from the folder that `prepare` wrote."""

    def __init__(self, target: Path, dtype: str, threads: int):
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        }
        encoder = core.compile_model(target / "encoder.xml", "CPU", settings)
        memory = core.compile_model(target / "memory.xml", "CPU", settings)
        settings |= {"SNIPPETS_MODE": "DISABLE"}
        step = core.compile_model(target / "step.xml", "CPU", settings)
        self.encoder = encoder.create_infer_request()
        self.memory = memory.create_infer_request()

        # Two take turns, so that the outputs of one are the inputs of the other.
        self.steps = [step.create_infer_request() for _ in range(2)]
        names = [port.any_name for port in step.inputs]
        self.past = [name for name in names if name.startswith("past")]
        self.past_shape = step.input(self.past[0]).partial_shape

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Return the memory (1, S, H) of a waveform (1, L)."""
        self.encoder.infer([waveform], share_inputs=True)
        return self.encoder.get_output_tensor(0).data.copy()

    def start(self, memory: np.ndarray, rows: int) -> Step:
        """Return the step of a search in `rows` rows."""
        cross = self.memory.infer([memory], share_inputs=True)
        for request in self.steps:
            for output in cross:
                request.set_tensor(output.any_name, openvino.Tensor(cross[output]))

        # No past yet: no tokens of each row.
        _, heads, _, size = self.past_shape
        empty = np.zeros((rows, heads.get_length(), 0, size.get_length()), np.float32)
        for name in self.past:
            self.steps[0].set_tensor(name, openvino.Tensor(empty))
        length = 0

        def step(tokens: np.ndarray, parent_rows: np.ndarray) -> np.ndarray:
            nonlocal length
            request = self.steps[length % 2]
            following = self.steps[(length + 1) % 2]
            inputs = {
                "tokens": tokens,
                "position": np.array([length]),
                "parent_rows": parent_rows,
            }
            logprobs = request.infer(inputs)["logprobs"]
            for name in self.past:
                new_past = request.get_tensor(name.replace("past", "new"))
                following.set_tensor(name, new_past)
            length += 1
            return logprobs

        return step
