"""The pair that is timed: the sizes of wav2vec2-base and bert-base-uncased, with random weights."""

import json
from pathlib import Path

RATE = 16_000  # Hz

# What makes the pair tiny, for a run that only shows that every program works.
SMALL_ENCODER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
    "num_conv_pos_embedding_groups": 4,
}
SMALL_DECODER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 300,
}
IDS = {"decoder_start_token_id": 101, "pad_token_id": 0, "eos_token_id": 102}


def build_pair(folder: Path, small: bool = False) -> None:
    """Save the pair as transformers does, with random weights; a tiny one if `small`."""
    import transformers as hf

    from tests.helpers.pairs import spread_

    encoder_sizes = SMALL_ENCODER if small else {}
    decoder_sizes = SMALL_DECODER if small else {}
    encoder = hf.Wav2Vec2Config(**encoder_sizes)
    decoder = hf.BertConfig(is_decoder=True, add_cross_attention=True, **decoder_sizes)
    config = hf.SpeechEncoderDecoderConfig(
        encoder=encoder.to_dict(), decoder=decoder.to_dict(), **IDS
    )
    model = spread_(hf.SpeechEncoderDecoderModel(config))
    predictions = model.decoder.cls.predictions
    predictions.bias.data.copy_(predictions.decoder.bias.data)
    model.save_pretrained(folder)


def find_pair(folder: Path, small: bool = False) -> Path:
    """Return `folder`, with the pair in it."""
    if not (folder / "config.json").exists():
        build_pair(folder, small)
    return folder


def read_ids(folder: Path) -> dict[str, int]:
    """Return the ids of the start token and of EOS, of a saved pair."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in IDS}
