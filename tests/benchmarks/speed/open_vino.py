"""OpenVINO: the three graphs of export.py, in float32, in bfloat16, or with weights in int8.

The step keeps its past as the plugin's own state, as OpenVINO's guide and optimum-intel have it, so
that its fused attention is used. int8 needs nncf: weights with a scale for each output channel, and
inputs that the plugin quantises as they come.
"""

from pathlib import Path

import numpy as np
import openvino

from tests.benchmarks.speed.search import Step

# The precision in which the plugin computes, and keeps the past.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def prepare(folder: Path, target: Path, dtype: str, samples: int) -> None:
    """Write the graphs of the pair in `folder` into `target`."""
    import torch

    from tests.benchmarks.speed.export import build_graphs, example_inputs, step_names

    graphs = build_graphs(folder)
    examples = example_inputs(graphs["encoder"].model, samples)
    cross, past, new_past = step_names(len(graphs["step"].decoder.blocks))
    names = {
        "encoder": (["waveform"], ["memory"]),
        "memory": (["memory"], cross),
        "step": (["tokens", "position", "parent_rows", *cross, *past], ["logprobs", *new_past]),
    }
    for name, graph in graphs.items():
        with torch.no_grad():
            if name == "encoder":
                program = torch.export.export(graph.eval(), examples[name])
                model = openvino.convert_model(program)
                model.reshape([1, samples])
            else:
                model = openvino.convert_model(graph.eval(), example_input=examples[name])
        inputs, outputs = names[name]
        for port, port_name in zip((*model.inputs, *model.outputs), (*inputs, *outputs)):
            port.get_tensor().set_names({port_name})
        if name == "step":
            keep_past_as_state(model, dict(zip(past, new_past)), examples["step"][4][0].shape)
        if dtype == "int8":
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        openvino.save_model(model, target / f"{name}.xml", compress_to_fp16=False)


def keep_past_as_state(
    model: openvino.Model, pairs: dict[str, str], shape: tuple[int, ...]
) -> None:
    """Make inputs and outputs of `model` its state: `pairs` are names of past and new past.

    shape: of a past, (R, N, P, D). A search starts with as many rows as tokens, and no past.
    """
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    _, heads, _, size = shape
    for name in pairs:
        model.input(name).get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)

    first = opset13.constant(np.array([0]))
    rows = opset13.gather(opset13.shape_of(model.input("tokens")), first, opset13.constant(0))
    sizes = [opset13.constant(np.array([length])) for length in (heads, 0, size)]
    empty = opset13.broadcast(
        opset13.constant(0.0, dtype=np.float32), opset13.concat([rows, *sizes], axis=0)
    )
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


class Model:
    """The pair, read from the folder that `prepare` wrote."""

    def __init__(self, target: Path, dtype: str, threads: int):
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "KV_CACHE_PRECISION": PRECISIONS[dtype],
        }
        self.encoder, self.memory, self.step = (
            core.compile_model(target / f"{name}.xml", "CPU", settings).create_infer_request()
            for name in ("encoder", "memory", "step")
        )

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Return the memory (1, S, H) of a waveform (1, L)."""
        self.encoder.infer([waveform], share_inputs=True)
        return self.encoder.get_output_tensor(0).data.copy()

    def start(self, memory: np.ndarray, rows: int) -> Step:
        """Return the step of a search in `rows` rows."""
        cross = self.memory.infer([memory], share_inputs=True)
        for output in cross:
            self.step.set_tensor(output.any_name, openvino.Tensor(cross[output]))
        self.step.reset_state()
        length = 0

        def step(tokens: np.ndarray, parent_rows: np.ndarray) -> np.ndarray:
            nonlocal length
            inputs = {
                "tokens": tokens,
                "position": np.array([length]),
                "parent_rows": parent_rows,
            }
            length += 1
            return self.step.infer(inputs)["logprobs"]

        return step
