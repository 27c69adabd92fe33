# pytest tests/test_halves_heads.py
"""A half may have any head: what is not the language model's is left out, and named in the log."""

from pathlib import Path

import pytest
import torch
from helpers.half_files import decoder_file, drawn_parts, encoder_file, read_with_transformers
from helpers.half_files import halves as halves  # noqa: PLC0414, a fixture
from helpers.numbers import assert_same_numbers
from helpers.pairs import spread_
from safetensors.torch import load_file, save_file

from nanos2t.model import SpeechEncoderDecoder

hf = pytest.importorskip("transformers")

# Classes of transformers: the family, and what begins the names of the foreign head.
ENCODER_HEADS = {
    "Wav2Vec2ForCTC": ("base", "lm_head"),
    "Wav2Vec2ForPreTraining": ("base", "quantizer"),
    "Wav2Vec2ForSequenceClassification": ("xlsr-53", "projector"),
    "Wav2Vec2ForAudioFrameClassification": ("base", "classifier"),
    "Wav2Vec2ForXVector": ("base", "feature_extractor, objective, "),
    "HubertForCTC": ("hubert", "lm_head"),
    "HubertForSequenceClassification": ("hubert", "projector"),
    "UniSpeechForPreTraining": ("unispeech", "quantizer"),
    "UniSpeechForSequenceClassification": ("unispeech", "projector"),
    "UniSpeechSatForPreTraining": ("unispeech-sat", "quantizer"),
    "UniSpeechSatForXVector": ("unispeech-sat", "tdnn"),
    "UniSpeechSatForAudioFrameClassification": ("unispeech-sat", "classifier"),
}
DECODER_HEADS = {
    "BertForPreTraining": ("bert", "cls.seq_relationship"),
    "BertForSequenceClassification": ("bert", "classifier"),
    "BertForTokenClassification": ("bert", "classifier"),
    "BertForQuestionAnswering": ("bert", "qa_outputs"),
    "BertForMultipleChoice": ("bert", "classifier"),
    "BertForNextSentencePrediction": ("bert", "cls.seq_relationship"),
    "RobertaForSequenceClassification": ("roberta", "classifier"),
    "RobertaForTokenClassification": ("roberta", "classifier"),
    "XLMRobertaForMaskedLM": ("xlm-roberta", None),
    "XLMRobertaForQuestionAnswering": ("xlm-roberta", "qa_outputs"),
    "CamembertForMultipleChoice": ("camembert", "classifier"),
    "GPT2ForSequenceClassification": ("gpt2", "score"),
    "GPT2ForTokenClassification": ("gpt2, untied", "classifier"),
    "GPT2DoubleHeadsModel": ("gpt2", "multiple_choice_head"),
    "BartForSequenceClassification": ("bart", "classification_head"),
    "BartForQuestionAnswering": ("bart", "qa_outputs"),
    "BartForConditionalGeneration": ("bart", None),
    "MBartForSequenceClassification": ("mbart, untied", "classification_head"),
}
# Classes whose file has the output matrix of the language model.
WITH_LANGUAGE_MODEL = ("BertForPreTraining", "XLMRobertaForMaskedLM")


def join(encoder: Path, decoder: Path) -> SpeechEncoderDecoder:
    return SpeechEncoderDecoder.from_encoder_decoder_pretrained(
        encoder, decoder, dtype=torch.float64
    )


def left_out(text: str) -> str:
    """What the log says is left out of a file."""
    lines = [line for line in text.split("\n") if "outside the base model" in line]
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ENCODER_HEADS)
@torch.no_grad()
def test_any_head_on_an_encoder(kind, halves, tmp_path, caplog):
    family, head = ENCODER_HEADS[kind]
    bare = encoder_file(kind, family, tmp_path / "encoder", tdnn_dim=[8, 9], tdnn_kernel=[2, 1],
                        tdnn_dilation=[1, 1], classifier_proj_size=7)  # fmt: skip
    model = join(tmp_path / "encoder", halves[1])
    assert head in left_out(caplog.text)
    assert not any(name.startswith("encoder.") for name in drawn_parts(caplog.text))

    # All of the base model arrived, and transformers loads what we save.
    theirs = read_with_transformers(spread_drawn(model, caplog.text), tmp_path / "pair")
    for name, tensor in bare.state_dict().items():
        if name != "masked_spec_embed":
            assert torch.equal(theirs.encoder.state_dict()[name], tensor), name
    assert_same_numbers(theirs, model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DECODER_HEADS)
@torch.no_grad()
def test_any_head_on_a_decoder(kind, halves, tmp_path, caplog):
    family, head = DECODER_HEADS[kind]
    whole = decoder_file(kind, family, tmp_path / "decoder", is_decoder=False)
    model = join(halves[0], tmp_path / "decoder")
    if head is not None:
        assert head in left_out(caplog.text)

    # The head of a language model is drawn and listed, unless it is only the embedding.
    own_head = [name for name in model.decoder.state_dict() if name.startswith("head.")]
    is_drawn = bool(own_head) and kind not in WITH_LANGUAGE_MODEL
    assert ("decoder.head" in drawn_parts(caplog.text)) == is_drawn
    assert "decoder.embed" not in drawn_parts(caplog.text)

    # All of the base model arrived, and transformers loads what we save.
    theirs = read_with_transformers(spread_drawn(model, caplog.text), tmp_path / "pair")
    state = theirs.decoder.state_dict()
    prefix = whole.base_model_prefix
    names = [name for name in whole.state_dict() if name.startswith(f"{prefix}.")]
    names = [name for name in names if name in state and "crossattention" not in name]
    assert len(names) >= 20
    for name in names:
        assert torch.equal(state[name], whole.state_dict()[name]), name
    assert_same_numbers(theirs, model)


def spread_drawn(model: SpeechEncoderDecoder, log: str) -> SpeechEncoderDecoder:
    """Draw anew the bridge and what the log says is drawn: weights under which a mistake shows."""
    spread_(model.bridge)
    if "cross_attn" in drawn_parts(log):
        for block in model.decoder.blocks:
            spread_(block.cross_attn)
    if "decoder.head" in drawn_parts(log):
        spread_(model.decoder.head)
    return model


def test_a_head_that_is_there_in_part_is_an_error(halves):
    path = halves[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors["cls.predictions.transform.dense.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="the head is there, but without head.transform.dense.w"):
        join(*halves)


def test_what_no_row_covers_inside_the_base_model_is_an_error(halves):
    path = halves[1] / "model.safetensors"
    save_file(load_file(path) | {"bert.encoder.strange": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"no place in the model for bert.encoder.strange"):
        join(*halves)
