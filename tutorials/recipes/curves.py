"""Learning curves of `nanos2t train` as a picture: the loss, what validation found, the learning rate.

    python tutorials/recipes/curves.py RUN/log.jsonl OTHER/log.jsonl --output curves.png

A run is named for its folder. Needs matplotlib: pip install matplotlib
"""

import argparse
import json
from pathlib import Path

LEFT_OUT = {"step", "seconds", "tokens_per_second"}
DEV = {"dev_loss": "loss"}  # drawn dashed, where the training's is
Curves = dict[str, dict[str, tuple[list[int], list[float]]]]  # panel, line: steps and values


def read(path: Path) -> list[dict]:
    """The lines of a log; a step that was done again, after a stop, counts as it was the last time, and a
    last line that was not written to its end does not.

    ValueError names the file and what was found instead.
    """
    try:
        whole = path.read_text("utf-8").rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines() if line.strip()]
        steps = {line["step"] + 0: line for line in found}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected the log.jsonl of a run") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}, expected lines of JSON with a step") from None
    if not any(line.keys() - LEFT_OUT for line in steps.values()):
        raise ValueError(f"{path}: no metric in any line, expected the log.jsonl of a run")
    return [steps[step] for step in sorted(steps)]


def curves(logs: dict[str, list[dict]]) -> Curves:
    """The logs by name -> a panel for each metric, in it a line for each run that has it."""
    panels: Curves = {}
    for name, lines in logs.items():
        for key in dict.fromkeys(key for line in lines for key in line):
            points = [
                (line["step"], line[key])
                for line in lines
                if isinstance(line.get(key), (int, float))
            ]
            if key not in LEFT_OUT and points:
                label = f"{name}, dev" if key in DEV else name
                panels.setdefault(DEV.get(key, key), {})[label] = tuple(map(list, zip(*points)))
    return dict(
        sorted(panels.items(), key=lambda panel: (panel[0] == "learning_rate", panel[0] != "loss"))
    )


def draw(panels: Curves, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    runs = dict.fromkeys(
        label.removesuffix(", dev") for lines in panels.values() for label in lines
    )
    colours = {run: f"C{i}" for i, run in enumerate(runs)}
    for axes, (name, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        for label, (steps, values) in lines.items():
            style, run = "--" if label.endswith(", dev") else "-", label.removesuffix(", dev")
            marker = "." if len(steps) < 50 else ""
            axes.plot(steps, values, style, marker=marker, color=colours[run], label=label)
        axes.set(title=name.replace("_", " "), xlabel="step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
    )
    figure.savefig(path, dpi=80)


def names(paths: list[Path]) -> list[str]:
    """The folder of each log, with as much of the path before it as tells them apart."""
    parts = [path.resolve().parts[:-1] for path in paths]
    size = next((n for n in range(1, 99) if len({part[-n:] for part in parts}) == len(parts)), 99)
    return ["/".join(part[-size:]) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="PNG, SVG or PDF"
    )
    options = parser.parse_args()
    logs = list(
        dict.fromkeys(path / "log.jsonl" if path.is_dir() else path for path in options.logs)
    )
    try:
        draw(curves(dict(zip(names(logs), map(read, logs)))), options.output)
    except ImportError:
        parser.error("needs matplotlib: pip install matplotlib")
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
