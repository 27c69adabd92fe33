# pytest tests/fast/test_plain.py
"""The code that is shown is the code that runs: with plain `nanos2t.load()` nothing is replaced."""

import sys
from types import CodeType, FrameType

import torch
from helpers.fast_pair import build_model
from torch import nn

import nanos2t
from nanos2t import decoder, wav2vec2
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.transcriber import SpeechToText

CORE = ("nanos2t.wav2vec2", "nanos2t.decoder", "nanos2t.model")
SAMPLE = BUNDLED.parent / "sample.wav"


def trace_calls(run) -> set[CodeType]:
    """The code objects of all functions that are entered while `run()` runs."""
    entered = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        entered.add(frame.f_code)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return entered


def core_classes(model: nn.Module) -> set[type]:
    """Classes of the core whose `forward` a transcription with this model must enter."""
    classes = {type(module) for module in model.modules()}

    # The forward of the whole model is for training: a transcription calls encode and generate.
    return {kind for kind in classes if kind.__module__ in CORE} - {SpeechEncoderDecoder}


def entered_classes(stt: SpeechToText) -> set[type]:
    """Those of core_classes whose `forward` a transcription of the bundled recording enters."""
    entered = trace_calls(lambda: stt.transcribe(SAMPLE))
    return {kind for kind in core_classes(stt.model) if kind.forward.__code__ in entered}


def test_every_module_of_a_plain_model_is_the_cores_or_torchs():
    for model in nanos2t.load().model, SpeechEncoderDecoder.from_pretrained(BUNDLED), build_model():
        for name, module in model.named_modules():
            place = type(module).__module__
            assert place in CORE or place.startswith("torch.nn."), f"{name}: {type(module)}"


def test_a_plain_transcription_enters_each_forward_of_the_core():
    stt = nanos2t.load()
    assert entered_classes(stt) == core_classes(stt.model)
    assert core_classes(stt.model) >= {
        wav2vec2.Attention,
        wav2vec2.MLP,
        wav2vec2.Block,
        wav2vec2.FeatureEncoder,
        wav2vec2.FeatureProjection,
        wav2vec2.PositionalConv,
        wav2vec2.Adapter,
        wav2vec2.Encoder,
        decoder.Embedding,
        decoder.Block,
        decoder.Head,
        decoder.Decoder,
    }


def test_a_fast_transcription_does_not():
    """So the test above would fail if `load` replaced modules."""
    stt = nanos2t.load()
    fast = nanos2t.load(fast=True)
    if type(fast.model.decoder.head) is decoder.Head:
        return  # this build of torch has no oneDNN
    entered = trace_calls(lambda: fast.transcribe(SAMPLE))
    replaced = {kind for kind in core_classes(stt.model) if kind.forward.__code__ not in entered}
    # For one token at a time, MLP and Head may be the core's: see fast.onednn.choose_min_rows.
    assert replaced >= {wav2vec2.ConvLayer, wav2vec2.PositionalConv}


def test_a_plain_forward_of_the_model_enters_its_own_code():
    model = build_model()
    values = torch.randn(1, 300)
    entered = trace_calls(lambda: model(values, decoder_input_ids=torch.tensor([[1, 5]])))
    assert {kind.forward.__code__ for kind in core_classes(model)} <= entered
    assert SpeechEncoderDecoder.forward.__code__ in entered
