"""nanos2t: how speech becomes text, small enough to read. `nanos2t.load()` gives a transcriber."""

from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

__all__ = ["DecoderConfig", "EncoderConfig", "GenerationConfig", "SpeechEncoderDecoder", "load"]
__version__ = "0.1.0"


def load(name_or_path=None, **options):
    """A transcriber from a folder or hub id, by default the bundled model."""
    from nanos2t.transcription import loading

    return loading.load_transcriber(name_or_path, **options)
