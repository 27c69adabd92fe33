"""From the items of a manifest to training examples: which can be used, and why others cannot."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from nanos2t.recordings import decoding
from nanos2t.training.config import TrainConfig
from nanos2t.training.manifest import Item, load_item
from nanos2t.transcription.transcriber import SpeechToText
from nanos2t.wav2vec2 import Encoder, conv_output_lengths

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Example:
    """An item of a manifest with the tokens of its text.

    Generation forces the first `num_forced` tokens (0, or 1 for a language): they are no labels.
    """

    item: Item
    seconds: float
    tokens: list[int]
    num_forced: int

    @property
    def num_labels(self) -> int:
        return len(self.tokens) - self.num_forced


class Recording(NamedTuple):
    """What the header of an audio file says. A damaged file announces more seconds than it has."""

    sample_rate: int
    seconds: float
    announced_seconds: float


def select_examples(
    stt: SpeechToText, items: Sequence[Item], config: TrainConfig, decode: bool = False
) -> tuple[list[Example], list[str]]:
    """Return the items that can be trained on, and lines about the others.

    A line names each item that is skipped and why, or a sample rate that is not the model's. Only
    the headers of recordings are read, unless `decode` asks to decode them, too.
    """
    examples: list[Example] = []
    lines: list[str] = []
    rates: Counter[int] = Counter()
    for number, item in enumerate(items, start=1):
        try:
            examples.append(check_item(stt, item, config, decode))
        except ValueError as error:
            reason = str(error).removeprefix(f"{item.audio}: ")
            lines.append(f"skipped: item {number}, {item}: {reason}")
        else:
            rates[measure_recording(item.audio).sample_rate] += 1

    for rate, count in rates.items():
        if rate != stt.sample_rate:
            lines.append(f"resampled: {count} recordings, from {rate} to {stt.sample_rate} Hz")
    return examples, lines


def check_item(stt: SpeechToText, item: Item, config: TrainConfig, decode: bool) -> Example:
    """Return the example of an item. Raises ValueError that says why it cannot be trained on."""
    # The recording: long enough for one frame, and not longer than the config allows
    seconds = check_extent(item)
    num_samples = round(seconds * stt.sample_rate)
    min_samples = stt.model.encoder.config.min_samples
    if not min_samples <= num_samples <= config.max_seconds * stt.sample_rate:
        raise ValueError(
            f"{seconds:.3f} s, expected one frame ({min_samples} samples) to {config.max_seconds} s"
        )

    # The text, and its tokens
    if not item.text.strip() and not config.keep_empty:
        raise ValueError("empty text")
    check_special_tokens(stt, item.text)
    tokens, num_forced = encode_text(stt, item)
    check_vocabulary(stt, item.text, tokens)
    check_length(stt, tokens, num_forced, num_samples)

    if decode:
        check_decodable(item.audio, item.start, item.end, stt.sample_rate)
    return Example(item, seconds, tokens, num_forced)


@lru_cache(maxsize=1)
def measure_recording(path: str) -> Recording:
    """Read the header of a recording, once for items of it that follow each other."""
    with decoding.open_audio(path) as file:
        announced_frames = 0
        if file.frames:
            announced_frames = decoding.announced_by_chunk(file, file.frames)
        rate = file.samplerate
        return Recording(rate, decoding.measure_seconds(file), announced_frames / rate)


@lru_cache(maxsize=1)
def check_decodable(audio: str, start: float, end: float | None, sample_rate: int) -> None:
    """Decode a part of a recording once for all of its texts. Raises ValueError if that fails."""
    load_item(Item(audio, "", None, start, end), sample_rate)


def check_extent(item: Item) -> float:
    """Return the seconds of an item. Raises ValueError if its recording does not have as many."""
    recording = measure_recording(item.audio)
    if item.end is None:
        if recording.seconds < recording.announced_seconds:
            raise ValueError(
                f"cut short, found {recording.seconds:.2f} of {recording.announced_seconds:.2f} s"
            )
        return recording.seconds - item.start

    if item.end > recording.seconds + decoding.END_TOLERANCE:
        raise ValueError(
            f"ends at {item.end} s, expected an end within the recording, {recording.seconds:.2f} s"
        )
    return min(item.end, recording.seconds) - item.start


def check_special_tokens(stt: SpeechToText, text: str) -> None:
    """Raise ValueError for a text that spells out a special token, as "</s>"."""
    for token in stt.tokenizer.backend.get_added_tokens_decoder().values():
        if token.special and token.content in text:
            raise ValueError(f"text with a special token, {token.content}")


def check_vocabulary(stt: SpeechToText, text: str, tokens: list[int]) -> None:
    """Raise ValueError for tokens that are unknown, or that the decoder has no place for."""
    backend = stt.tokenizer.backend
    unknown_token = getattr(getattr(backend, "model", None), "unk_token", None)
    names = {"<unk>", "[UNK]", unknown_token} - {None}
    unknown_ids = {backend.token_to_id(name) for name in names} - {None}

    # Some vocabularies write what they do not know as the end of the text.
    unknown_ids -= set(stt.model.generation.eos_ids)
    if not unknown_ids.isdisjoint(tokens):
        raise ValueError("text outside the vocabulary")
    if unknown_token is None:
        check_letters(backend, text)

    # A tokenizer may have got tokens that the model was never made larger for.
    vocab_size = stt.model.decoder.config.vocab_size
    if tokens and max(tokens) >= vocab_size:
        raise ValueError(f"token id {max(tokens)}, expected ids below the vocab_size {vocab_size}")


def check_letters(backend: "Tokenizer", text: str) -> None:
    """Raise ValueError if a vocabulary without an unknown token drops letters or digits."""
    covered: set[int] = set()
    for start, end in backend.encode(text).offsets:
        covered.update(range(start, end))
    lost = [letter for i, letter in enumerate(text) if letter.isalnum() and i not in covered]
    if lost:
        raise ValueError(f"text outside the vocabulary, which has no token for {lost[0]!r}")


def check_length(stt: SpeechToText, tokens: list[int], num_forced: int, num_samples: int) -> None:
    """Raise ValueError for too few tokens to learn from, or too many for the clip."""
    # A text cannot be longer than the encoding of its clip.
    num_frames = count_frames(stt.model.encoder, num_samples, with_adapter=True)
    max_positions = stt.model.decoder.config.max_positions
    max_tokens = min(num_frames, max_positions)
    if not num_forced < len(tokens) <= max_tokens:
        raise ValueError(
            f"{len(tokens)} tokens, expected {num_forced + 1} to {max_tokens}: "
            f"the clip has {num_frames} frames, the decoder {max_positions} positions"
        )


def count_frames(
    encoder: Encoder, num_samples: Tensor | int, with_adapter: bool = False
) -> Tensor | int:
    """Return how many frames the encoder makes of so many samples, an int or (B,).

    They are counted before its adapter, or after it.
    """
    layers = [*encoder.feature_encoder.conv_layers]
    if with_adapter:
        layers += encoder.adapter.layers
    length = num_samples
    for layer in layers:
        length = conv_output_lengths(length, layer.conv)
    return length


def encode_text(stt: SpeechToText, item: Item) -> tuple[list[int], int]:
    """Return the tokens of an item's text, and how many of the first are forced (0 or 1).

    The decoder's start token is not among them. The forced token (a language) comes first and an
    end token last. A model without languages writes all items alike. Raises ValueError for an
    unknown language.
    """
    language = item.language if stt.languages else None
    _, config, _ = stt.resolve_generation(language, {})
    forced_token = config.forced_bos_token_id
    tokens = stt.tokenizer.encode(item.text)

    # Tokenizers of some families begin with the start token, or with the language that they were
    # set to.
    language_tokens = (config.lang_to_id or {}).values()
    if tokens and tokens[0] in (config.decoder_start_token_id, forced_token, *language_tokens):
        tokens = tokens[1:]

    # Some end with an end token, some do not.
    if not tokens or tokens[-1] not in config.eos_ids:
        tokens = tokens + config.eos_ids[:1]

    if forced_token is None:
        return tokens, 0
    return [forced_token, *tokens], 1


def group_by_clip(examples: Sequence[Example]) -> list[list[int]]:
    """Return the indices of each clip's examples. A clip may occur with several texts."""
    clips: dict[tuple, list[int]] = {}
    for i, example in enumerate(examples):
        item = example.item
        clips.setdefault((item.audio, item.start, item.end), []).append(i)
    return list(clips.values())


def count_labels(examples: Iterable[Example]) -> int:
    return sum(example.num_labels for example in examples)
