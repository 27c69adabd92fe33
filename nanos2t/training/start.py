"""The model that training starts with: its weights, vocabulary, dropouts and audio rate."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nanos2t import checkpoint, files, halves, pretrained
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.initialize import initialize_weights
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.pretrained import ModelConfigs
from nanos2t.training.config import TrainConfig
from nanos2t.training.manifest import Item
from nanos2t.transcription import loading
from nanos2t.transcription import transcriber as transcribe
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger("nanos2t")

# How transformers is to read a vocabulary that is built.
TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


class ModelError(ValueError):
    """A model that a run is to start with cannot be loaded."""


@contextmanager
def loading_model() -> Iterator[None]:
    """Turn errors of a broken folder of a model into a ModelError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(str(error)) from None


def prepare_transcriber(
    config: TrainConfig, items: list[Item], output: Path, writes: bool = True
) -> transcribe.SpeechToText:
    """Prepare the transcriber to train, on the CPU.

    The process that `writes` puts the files of the tokenizer and the audio rate into `output`,
    where the others read them. Raises ModelError, in one line, for a model that cannot be loaded,
    ValueError for what does not fit together.
    """
    # One name for both halves, or one for each.
    encoder_name = config.model or config.encoder
    decoder_name = config.model or config.decoder
    with loading_model():
        encoder_folder = checkpoint.find_folder(encoder_name)
        decoder_folder = checkpoint.find_folder(decoder_name)

    torch.manual_seed(config.seed)
    if config.model and config.random == "none":
        dtype = getattr(torch, config.dtype)
        with loading_model():
            model = SpeechEncoderDecoder.from_pretrained(encoder_folder, dtype=dtype)
    else:
        model = load_start(config, encoder_folder, decoder_folder)
    warn_about_features(encoder_folder)
    warn_about_dropouts(decoder_folder)

    vocab_size = model.decoder.config.vocab_size
    if config.vocabulary != "decoder":
        pad_id = model.decoder.config.pad_token_id
        backend, model.generation = build_vocabulary(items, config, pad_id)
        vocab_size = backend.get_vocab_size()
        if writes:
            write_tokenizer(backend, output)
    if writes:
        copy_processors(encoder_folder, decoder_folder, output, config.vocabulary == "decoder")

    rebuilt = rebuild_model(model, config, vocab_size)
    with loading_model():
        stt = loading.from_folder(rebuilt, output)
    if stt.tokenizer is None:
        raise ValueError(
            f"{decoder_folder}: no tokenizer, expected one, or --vocabulary characters or bpe"
        )
    return stt


def warn_about_features(encoder_folder: Path) -> None:
    """Warn if the encoder was trained with SpecAugment over features, which is not implemented."""
    encoder = halves.read_half(encoder_folder, "encoder")
    if rate := encoder.config.get("mask_feature_prob"):
        log.warning(
            "%s: mask_feature_prob is %s, but features are not masked here", encoder_folder, rate
        )


def warn_about_dropouts(decoder_folder: Path) -> None:
    """Warn if the decoder was trained with layerdrop, or a dropout, that is not implemented."""
    decoder = halves.read_half(decoder_folder, "decoder").config
    if rate := decoder.get("decoder_layerdrop"):
        log.warning(
            "%s: decoder_layerdrop is %s, but no block of a decoder is skipped here",
            decoder_folder,
            rate,
        )
    # GPT-2 has a dropout of its own after the embeddings. Both rates are 0.1 if they are not set.
    residual_rate = decoder.get("resid_pdrop", 0.1)
    embedding_rate = decoder.get("embd_pdrop", 0.1)
    if decoder.get("model_type") == "gpt2" and embedding_rate != residual_rate:
        log.warning(
            "%s: embd_pdrop is %s, but resid_pdrop, %s, is used after the embeddings, too",
            decoder_folder,
            embedding_rate,
            residual_rate,
        )


def write_tokenizer(backend: "Tokenizer", output: Path) -> None:
    """Write a vocabulary that was built, and how transformers is to read it."""
    files.write_text(output / "tokenizer.json", backend.to_str(pretty=True) + "\n")
    content = json.dumps(TOKENIZER_CONFIG, indent=2) + "\n"
    files.write_text(output / "tokenizer_config.json", content)


def copy_processors(
    encoder_folder: Path, decoder_folder: Path, output: Path, with_tokenizer: bool
) -> None:
    """Copy the files of the encoder's audio and, unless one was built, the decoder's tokenizer."""
    for name in transcribe.PROCESSOR_FILES:
        is_audio = name in ("preprocessor_config.json", "processor_config.json")
        source = (encoder_folder if is_audio else decoder_folder) / name
        if (is_audio or with_tokenizer) and source.exists():
            files.copy_file(source, output / name)


def load_start(
    config: TrainConfig, encoder_folder: Path, decoder_folder: Path
) -> SpeechEncoderDecoder:
    """Join the encoder of one folder with the decoder of another, each alone there or in a pair.

    A half that `config.random` names is drawn, and its folder needs no weights. What a half alone
    does not have is drawn, too, and listed.
    """
    encoder_fields, decoder_fields, _ = halves.split_options(config.config_changes or {})
    with loading_model():
        encoder = halves.read_half(encoder_folder, "encoder")
        decoder = halves.read_half(decoder_folder, "decoder")

    # A wrong change is no fault of the folder.
    encoder = halves.change_half(encoder, encoder_fields)
    decoder = halves.change_half(decoder, decoder_fields)
    with loading_model():
        configs = pretrained.join_configs(encoder, decoder)
        model = SpeechEncoderDecoder.build_empty(configs)
    ours = model.state_dict()

    state = {}
    drawn = {}
    for half in (encoder, decoder):
        if config.random in (half.part, "both"):
            for name, tensor in ours.items():
                if name.startswith(f"{half.part}."):
                    drawn[name] = torch.empty(tensor.shape)
        else:
            with loading_model():
                state |= halves.read_half_weights(half, ours)

    pretrained.fill_model(model, state | drawn, f"{encoder_folder}, {decoder_folder}")
    model.to(getattr(torch, config.dtype)).eval()
    initialize_weights(model, drawn)
    return model


def empty_like(
    model: SpeechEncoderDecoder,
    encoder: EncoderConfig | None = None,
    decoder: DecoderConfig | None = None,
) -> SpeechEncoderDecoder:
    """Build the same model, or one with other configs, on the meta device: without weights."""
    configs = ModelConfigs(
        encoder or model.encoder.config,
        decoder or model.decoder.config,
        model.generation,
        model.families,
    )
    return SpeechEncoderDecoder.build_empty(configs)


def rebuild_model(
    model: SpeechEncoderDecoder, config: TrainConfig, vocab_size: int
) -> SpeechEncoderDecoder:
    """Put the weights into a model with the config's dropouts and masking, and a vocabulary's size.

    Weights of another shape are drawn.
    """
    # None leaves a rate as the checkpoint has it.
    rates = {}
    for field in fields(EncoderTraining):
        if getattr(config, field.name) is not None:
            rates[field.name] = getattr(config, field.name)
    encoder = model.encoder.config
    encoder = replace(encoder, training=replace(encoder.training, **rates))

    # The decoder has no masking, and only these two dropouts are set for both.
    decoder = model.decoder.config
    shared = {
        name: rates[name] for name in ("hidden_dropout", "attention_dropout") if name in rates
    }
    pad_id = decoder.pad_token_id
    if config.vocabulary != "decoder" and pad_id is not None:
        pad_id = model.generation.pad_token_id
    decoder = replace(
        decoder,
        training=replace(decoder.training, **shared),
        vocab_size=vocab_size,
        pad_token_id=pad_id,
    )

    rebuilt = empty_like(model, encoder, decoder)
    shapes = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.shape == shapes.get(name):
            state[name] = tensor
    pretrained.fill_model(rebuilt, state, "training")
    return rebuilt.to(model.dtype).eval()


def build_vocabulary(
    items: list[Item], config: TrainConfig, pad_id: int | None
) -> tuple["Tokenizer", GenerationConfig]:
    """Build a vocabulary of all characters in the texts; "bpe" adds pairs up to `vocab_size`.

    Returns the tokenizer, and the ids of its special tokens. The pad keeps the id `pad_id`, if that
    is among those of the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    # A token for each language, the most frequent first.
    counts = Counter(item.language for item in items if item.language)
    languages = [language for language, _ in counts.most_common()]
    special = ["<s>", "</s>", "<unk>"]
    for language in languages:
        if f"<{language}>" in ("<pad>", *special):
            raise ValueError(f"language is {language!r}, expected one that is no special token")
        special.append(f"<{language}>")
    if pad_id is None or pad_id > len(special):
        pad_id = 0
    special.insert(pad_id, "<pad>")

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()

    # Without room for pairs, what is left is the characters.
    size = config.vocab_size if config.vocabulary == "bpe" else 0
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator((item.text for item in items), trainer)

    # Each text ends in </s>.
    start_id = special.index("<s>")
    end_id = special.index("</s>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end_id)]
    )
    language_ids = {language: special.index(f"<{language}>") for language in languages}
    generation = GenerationConfig(
        decoder_start_token_id=start_id,
        bos_token_id=start_id,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        forced_bos_token_id=next(iter(language_ids.values()), None),
        lang_to_id=language_ids or None,
    )
    return backend, generation
