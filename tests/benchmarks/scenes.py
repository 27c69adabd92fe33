"""Scenes for fuzz.py: folders of recordings, links and other things, and a command line about them.

`draw_scene(seed)` is the same scene whoever asks. It knows how many words were said in each
recording, so that whoever reads the answer of the command can tell whether some were lost.
"""

import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from nanos2t import audio
from nanos2t.transcription.loading import BUNDLED

RATE = 8000  # Hz
WORDS_OF_SAMPLE = 3  # "two four seven"
PAUSE_SECONDS = 1.6
LOST = "lost.wav"  # the name of a link that leads nowhere

# Suffix, format, subtype and loudness of a recording.
KINDS = [
    ("wav", "WAV", "PCM_16", 1.0),
    ("wav", "WAV", "PCM_16", 0.01),
    ("WAV", "WAV", "FLOAT", 1e-4),
    ("wav", "WAV", "FLOAT", 1e-8),
    ("bwf", "WAV", "ULAW", 0.5),
    ("flac", "FLAC", "PCM_16", 0.3),
    ("ogg", "OGG", "VORBIS", 0.5),
    ("opus", "OGG", "OPUS", 0.5),
    ("mp3", "MP3", "MPEG_LAYER_III", 0.5),
    ("aiff", "AIFF", "PCM_16", 0.7),
    ("w64", "W64", "PCM_16", 0.7),
    ("caf", "CAF", "PCM_16", 0.7),
]
CHANNELS = ["mono", "mono", "stereo", "opposite", "hum"]

NAMES = ["a", "b c", "ü", "-x", "new\nline", "\x1b[31m", "a.b", "[x]", "*", "'q'", "#1", "z" * 120]
FOLDERS = ["", "", "deep", "deep/er", "with space", "ü"]

# Options with a value that makes no sense: each of them is a usage error.
SENSELESS = ["--batch-size=nan", "--num-beams=-1", "--batch-size=1e400", "--num-beams=", "--x=1"]
SENSELESS += ["--device=cuda:99", "--dtype=int5", "--language=xx", "--format=doc", "--num-beams=0"]
SENSELESS += [f"--batch-size={'9' * 5000}", "--max-line-width=inf", "--device=", "--output"]


@dataclass
class Scene:
    """What is in the current folder, a command line, and what has to come of it.

    words: of each recording that the command is asked to read, by its path. Those in `doubtful` are
    damaged: their words are there, or a line says what is wrong.
    is_usage: the command line is wrong: nothing may happen. stdin: the bytes of "-".
    """

    arguments: list[str] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    is_usage: bool = False
    stdin: bytes = b""


@cache
def make_recording(count: int, kind: int, channels: str) -> bytes:
    """Return a file in which the bundled sample is spoken `count` times; none is noise."""
    _, format, subtype, loudness = KINDS[kind]
    random_noise = np.random.default_rng(count + 10 * kind)
    sample = audio.load_audio(BUNDLED.parent / "sample.wav", RATE)
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    parts = [pause] + count * [sample, pause]
    waveform = np.concatenate(parts)
    waveform = waveform + 2e-4 * random_noise.standard_normal(len(waveform)).astype(np.float32)

    second = {"stereo": waveform, "opposite": -waveform}.get(channels)
    if channels == "hum":
        second = 0.3 * np.sin(2 * np.pi * 50 * np.arange(len(waveform)) / RATE)
    sound = waveform if second is None else np.stack([waveform, second], axis=1)
    data = io.BytesIO()
    soundfile.write(data, sound * loudness, RATE, subtype=subtype, format=format)
    return data.getvalue()


# Damage: what is returned has all words, or is doubtful.


def cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(1, len(data))]


def append(draw: random.Random, data: bytes) -> bytes:
    return data + draw.choice([b"\0" * 3000, draw.randbytes(3000), b"RIFF", b"LIST\4\0\0\0abcd"])


def lie_about_length(draw: random.Random, data: bytes) -> bytes:
    """Write another length into the data chunk of a WAV; other files are cut."""
    place = data.find(b"data")
    if not data.startswith(b"RIFF") or place < 0:
        return cut(draw, data)
    length = draw.choice([0, 2, 1000, 2**31 - 1, 2**31, 2**32 - 1, len(data), len(data) // 2])
    return data[: place + 4] + length.to_bytes(4, "little") + data[place + 8 :]


def empty(draw: random.Random, data: bytes) -> bytes:
    return draw.choice([b"", b"no audio", data[:44], b"\0" * 500])


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [cut, cut, append, lie_about_length, empty]


def write_recording(draw: random.Random, scene: Scene, path: Path) -> Path:
    """Write a recording of a random kind below `path`, and note its words."""
    count = draw.choice([0, 1, 1, 1, 2])
    kind = draw.randrange(len(KINDS))
    data = make_recording(count, kind, draw.choice(CHANNELS))
    is_joinable = KINDS[kind][1] in ("WAV", "FLAC", "MP3")
    if is_joinable and draw.random() < 0.1:
        data = data + data
        count *= 2

    name = draw.choice(NAMES)
    path = path / f"{name}{len(scene.words)}.{KINDS[kind][0]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if draw.random() < 0.2:
        data = draw.choice(DAMAGES)(draw, data)
        scene.doubtful.add(str(path))
    path.write_bytes(data)
    scene.words[str(path)] = WORDS_OF_SAMPLE * count
    return path


def draw_scene(seed: int) -> Scene:
    """Fill the current folder and return the scene."""
    draw = random.Random(f"scene {seed}")
    scene = Scene()
    root = Path("in")
    recordings = []
    for _ in range(draw.choice([1, 1, 2, 3, 5])):
        recordings.append(write_recording(draw, scene, root / draw.choice(FOLDERS)))
    choose_inputs(draw, scene, root, recordings)
    choose_outputs(draw, scene, recordings)
    if draw.random() < 0.08:
        scene.arguments.insert(1, draw.choice(SENSELESS))
        scene.is_usage = True
    return scene


def choose_inputs(draw: random.Random, scene: Scene, root: Path, recordings: list[Path]) -> None:
    """Draw how the command line names its inputs."""
    way = draw.choice(["folder", "folder", "files", "pattern", "list", "stdin"])
    scene.arguments = ["transcribe"]
    if way == "folder":
        scene.arguments.append(str(root))
        add_other_things(draw, scene, root, recordings)
    elif way == "files":
        scene.arguments += ["--", *map(str, recordings)]
    elif way == "pattern":
        scene.arguments.append(f"{root}/**/*")
        add_other_things(draw, scene, root, recordings)
    elif way == "list":
        # A list has an input on each line.
        kept = [path for path in recordings if "\n" not in str(path)]
        scene.words = {str(path): scene.words[str(path)] for path in kept}
        Path("list").write_text("".join(f"{path}\n" for path in kept))
        scene.arguments.append("--files-from=list")
    elif way == "stdin":
        path = str(recordings[0])
        scene.words = {"-": scene.words[path]}
        scene.doubtful = {"-"} if path in scene.doubtful else set()
        scene.stdin = recordings[0].read_bytes()
        scene.arguments.append("-")


def add_other_things(draw: random.Random, scene: Scene, root: Path, recordings: list[Path]) -> None:
    """Add what is no recording, and links, to a folder."""
    things = draw.sample(["text", "loop", "second", "lost", "fifo", "mac", "outside"], 3)
    if "text" in things:
        (root / "notes.txt").write_text("two four seven")
    if "loop" in things:
        (root / "loop").symlink_to(".")
    if "second" in things:
        (root / "second.wav").symlink_to(recordings[0].absolute())
    if "fifo" in things:
        os.mkfifo(root / "fifo.wav")
    if "mac" in things:
        (root / "._a.wav").write_bytes(b"\0")
    if "lost" in things:
        (root / LOST).symlink_to("nowhere.wav")
        scene.words[str(root / LOST)] = 0
        scene.doubtful.add(str(root / LOST))
    if "outside" in things:
        link_outside(draw, scene, root)


def link_outside(draw: random.Random, scene: Scene, root: Path) -> None:
    """Add a link to a folder with a recording, which is read and named by the link."""
    recording = write_recording(draw, scene, Path("elsewhere"))
    (root / "linked").symlink_to(Path("elsewhere").absolute())
    linked = str(root / "linked" / recording.name)
    scene.words[linked] = scene.words.pop(str(recording))
    if str(recording) in scene.doubtful:
        scene.doubtful.add(linked)


def choose_outputs(draw: random.Random, scene: Scene, recordings: list[Path]) -> None:
    """Draw the format and where files are written: sometimes onto an input."""
    options = []
    options += draw.choice(
        [[], [], ["--batch-size=1"], ["--num-beams=2"], ["--words"], ["--quiet"]]
    )
    format = draw.choice(["txt", "txt", "json", "tsv", "srt", "vtt"])
    options.append(f"--format={format}")
    way = draw.choice(
        ["none", "none", "none", "new", "new", "new", "new", "input", "file", "below"]
    )
    if way == "new":
        options.append("--output=out")
    elif way == "input":
        # The output of the first recording is the recording itself, by a hard link.
        Path("out").mkdir()
        first = next(iter(scene.words), "-")
        stem = "stdin" if first == "-" else Path(first).stem
        if os.path.isfile(first):
            os.link(os.path.realpath(first), f"out/{stem}.{format}")
            scene.is_usage = True
        options.append("--output=out")
    elif way == "file":
        Path("out").write_text("a file")
        options.append("--output=out")
        scene.is_usage = True
    elif way == "below":
        Path("a file").write_text("a file")
        options.append("--output=a file/out")
        scene.is_usage = True
    num_inputs = len(scene.words.keys() - {f"in/{LOST}"})
    if format in ("srt", "vtt", "tsv") and way == "none" and num_inputs > 1:
        scene.is_usage = True
    scene.arguments[1:1] = options
