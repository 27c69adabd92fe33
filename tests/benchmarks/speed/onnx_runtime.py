"""ONNX Runtime: the three graphs of export.py, in float32 or with its dynamic int8.

int8 is what its own guide advises for transformers: `quantize_dynamic` of matrix products, a scale
for each output channel. Convolutions stay in float32: its integer convolutions are slower.
"""

from pathlib import Path

import numpy as np
import onnxruntime

from tests.benchmarks.speed.search import Step


def prepare(folder: Path, target: Path, dtype: str, samples: int) -> None:
    """Write the graphs of the pair in `folder` into `target`, a sibling of float32's."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tests.benchmarks.speed.export import GRAPHS, export_onnx

    source = target.parent / "float32"
    if dtype == "float32" or not (source / f"{GRAPHS[-1]}.onnx").exists():
        source.mkdir(parents=True, exist_ok=True)
        export_onnx(folder, source, samples)
    if dtype == "float32":
        return
    for name in GRAPHS:
        quantize_dynamic(
            source / f"{name}.onnx",
            target / f"{name}.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


class Model:
    """The pair, read from the folder that `prepare` wrote."""

    def __init__(self, target: Path, dtype: str, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self.encoder, self.memory, self.step = (
            onnxruntime.InferenceSession(str(target / f"{name}.onnx"), options, providers)
            for name in ("encoder", "memory", "step")
        )

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Return the memory (1, S, H) of a waveform (1, L)."""
        return self.encoder.run(None, {"waveform": waveform})[0]

    def start(self, memory: np.ndarray, rows: int) -> Step:
        """Return the step of a search in `rows` rows."""
        make_value = onnxruntime.OrtValue.ortvalue_from_numpy

        # The cross-attention's keys and values, and an empty past of every row.
        names = [value.name for value in self.memory.get_outputs()]
        cross = self.memory.run_with_ort_values(None, {"memory": make_value(memory)})
        feeds = dict(zip(names, cross))
        past = [value for value in self.step.get_inputs() if value.name.startswith("past")]
        for value in past:
            _, heads, _, size = value.shape
            feeds[value.name] = make_value(np.zeros((rows, heads, 0, size), np.float32))
        length = 0

        def step(tokens: np.ndarray, parent_rows: np.ndarray) -> np.ndarray:
            nonlocal length
            feeds["tokens"] = make_value(tokens)
            feeds["position"] = make_value(np.array([length]))
            feeds["parent_rows"] = make_value(parent_rows)
            logprobs, *new_past = self.step.run_with_ort_values(None, feeds)
            feeds.update(zip([value.name for value in past], new_past))
            length += 1
            return logprobs.numpy()

        return step
