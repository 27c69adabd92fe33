"""nanos2t: how speech becomes text, small enough to read. `nanos2t.load()` gives a transcriber."""

from nanos2t.decoder import DecoderConfig
from nanos2t.generate import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.wav2vec2 import EncoderConfig

__all__ = ["DecoderConfig", "EncoderConfig", "GenerationConfig", "SpeechEncoderDecoder", "load"]
__version__ = "0.1.0"

def load(name_or_path=None, **options):
    """A transcriber from a folder or hub id, by default the bundled model: nanos2t.apps.transcribe.load."""
    from nanos2t.apps import transcribe
    return transcribe.load(name_or_path, **options)
