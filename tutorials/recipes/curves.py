"""Draw the learning curves of `nanos2t train`: the loss, the metrics of validation, the learning
rate.

    python tutorials/recipes/curves.py RUN/log.jsonl OTHER/log.jsonl --output curves.png

A run has the name of its folder. Needs matplotlib: pip install matplotlib
"""

import argparse
import json
from pathlib import Path

NOT_DRAWN = {"step", "seconds", "tokens_per_second"}
VALIDATION = {"dev_loss": "loss"}  # drawn dashed, in the panel of the training's
Curve = tuple[list[int], list[float]]  # steps and values
Panels = dict[str, dict[str, Curve]]  # by metric, then by run


def read_log(path: Path) -> list[dict]:
    """Return the lines of a log in the order of their steps.

    A step that was done again, after a stop, counts as it was the last time. A last line that was
    not written to its end does not count. ValueError: the file is no log.
    """
    steps = {}
    try:
        complete_lines = path.read_text("utf-8").rpartition("\n")[0]
        for text in complete_lines.splitlines():
            if text.strip():
                line = json.loads(text)
                steps[line["step"] + 0] = line  # + 0: a TypeError for what is no number
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected the log.jsonl of a run") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}, expected lines of JSON with a step") from None

    if not any(line.keys() - NOT_DRAWN for line in steps.values()):
        raise ValueError(f"{path}: no metric in any line, expected the log.jsonl of a run")
    return [steps[step] for step in sorted(steps)]


def make_panels(logs: dict[str, list[dict]]) -> Panels:
    """Return a panel for each metric, with a curve for each run that has it, loss first."""
    panels: Panels = {}
    for run, lines in logs.items():
        keys = dict.fromkeys(key for line in lines for key in line)
        for key in keys:
            steps, values = select_points(lines, key)
            if key in NOT_DRAWN or not steps:
                continue
            metric = VALIDATION.get(key, key)
            label = f"{run}, dev" if key in VALIDATION else run
            panels.setdefault(metric, {})[label] = (steps, values)

    first = [name for name in panels if name == "loss"]
    last = [name for name in panels if name == "learning_rate"]
    others = [name for name in panels if name not in ("loss", "learning_rate")]
    return {name: panels[name] for name in first + others + last}


def select_points(lines: list[dict], key: str) -> Curve:
    points = [line for line in lines if isinstance(line.get(key), (int, float))]
    return [line["step"] for line in points], [line[key] for line in points]


def draw(panels: Panels, path: Path) -> None:
    """Draw the panels side by side, each run in one colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    colours = {}
    for curves in panels.values():
        for label in curves:
            colours.setdefault(label.removesuffix(", dev"), f"C{len(colours)}")

    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (metric, curves) in zip(row, panels.items()):
        for label, (steps, values) in curves.items():
            line_style = "--" if label.endswith(", dev") else "-"
            marker = "." if len(steps) < 50 else ""
            colour = colours[label.removesuffix(", dev")]
            axes.plot(steps, values, line_style, marker=marker, color=colour, label=label)
        axes.set(title=metric.replace("_", " "), xlabel="step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)

    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=80)


def name_runs(paths: list[Path]) -> list[str]:
    """Return the folder of each log, with as much of its path as is needed to tell them apart."""
    folders = [path.resolve().parts[:-1] for path in paths]
    longest = max(len(folder) for folder in folders)
    for length in range(1, longest + 1):
        names = ["/".join(folder[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return ["/".join(folder) for folder in folders]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("curves.png"), help="PNG, SVG or PDF"
    )
    options = parser.parse_args()

    # A run's folder may be given in the place of its log; each log is drawn once.
    paths = [path / "log.jsonl" if path.is_dir() else path for path in options.logs]
    paths = list(dict.fromkeys(paths))
    try:
        logs = {name: read_log(path) for name, path in zip(name_runs(paths), paths)}
        draw(make_panels(logs), options.output)
    except ImportError:
        parser.error("needs matplotlib: pip install matplotlib")
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
