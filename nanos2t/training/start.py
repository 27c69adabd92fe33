"""What training starts with: two halves, loaded or drawn, with a vocabulary, dropouts and a rate of audio."""

import json
import logging
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import torch

from nanos2t import checkpoint, files, pretrained, remap
from nanos2t import files as atomic
from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.initialize import initialize_weights
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig
from nanos2t.training.manifest import Item
from nanos2t.transcription import loading
from nanos2t.transcription import transcriber as transcribe
from nanos2t.wav2vec2 import EncoderConfig, EncoderTraining

log = logging.getLogger("nanos2t")
SPECIAL = {  # tokens of a vocabulary that is built, and how transformers is to read it
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def prepare_transcriber(
    config: TrainConfig, items: list[Item], output: Path, writes: bool = True
) -> transcribe.SpeechToText:
    """The transcriber to train, on the CPU; the process that writes puts the files of its tokenizer and its
    rate into `output` before others look there.
    ValueError, one line, for what can not be loaded or fitted together.
    """
    names = (config.model, config.model) if config.model else (config.encoder, config.decoder)
    folders = [checkpoint.find_folder(name) for name in names]
    dtype, whole = getattr(torch, config.dtype), config.model and config.random == "none"
    found = read_config(folders[0])
    if rate := found.get("encoder", found).get("mask_feature_prob"):
        log.warning(
            "%s: mask_feature_prob is %s, but features are not masked here", folders[0], rate
        )
    torch.manual_seed(config.seed)
    model = (
        pretrained.from_pretrained(folders[0], dtype=dtype)
        if whole
        else load_start(config, *folders)
    )
    vocab_size, own = model.decoder.config.vocab_size, config.vocabulary == "decoder"
    if not own:
        backend, model.generation = build_vocabulary(
            items, config, model.decoder.config.pad_token_id
        )
        if writes:
            atomic.write_text(output / "tokenizer.json", backend.to_str(pretty=True) + "\n")
            atomic.write_text(
                output / "tokenizer_config.json", json.dumps(SPECIAL, indent=2) + "\n"
            )
        vocab_size = backend.get_vocab_size()
    for name in transcribe.PROCESSOR_FILES if writes else ():
        audio = name.startswith("p")  # preprocessor_config.json, processor_config.json
        if (audio or own) and (file := folders[not audio] / name).exists():
            atomic.copy_file(file, output / name)
    stt = loading.from_folder(rebuild_model(model, config, vocab_size), output)
    if stt.tokenizer is None:
        raise ValueError(
            f"{folders[1]}: no tokenizer, expected one, or --vocabulary characters or bpe"
        )
    return stt


def read_config(folder: Path) -> dict:
    """What its config.json says. ValueError if that is of a pair, and a half of it is missing."""
    found = files.read_json(folder / "config.json")
    default = None if found.get("model_type") == pretrained.MODEL_TYPE else {}
    if not all(isinstance(found.get(part, default), dict) for part in ("encoder", "decoder")):
        raise ValueError(f"{folder / 'config.json'}: expected objects as encoder and decoder")
    return found


def load_start(config: TrainConfig, *folders: Path) -> SpeechEncoderDecoder:
    """The encoder of the first folder with the decoder of the second, each alone there or in a pair; a half
    that is `config.random` is drawn, and so is what a half alone does not have.
    """
    parts = dict(zip(("encoder", "decoder"), folders))
    configs = {part: read_config(folder) for part, folder in parts.items()}
    paired = {
        part for part, found in configs.items() if found.get("model_type") == pretrained.MODEL_TYPE
    }
    ids = (
        configs["decoder"] if "decoder" in paired else {}
    )  # older pairs have them in config.json alone
    configs = {part: found[part] if part in paired else found for part, found in configs.items()}
    model = pretrained.build(ids | configs, *folders, {})
    theirs, drawn = {}, [part for part in parts if config.random in (part, "both")]
    new = ["bridge", "decoder.blocks.{i}.cross_attn"]
    for part, table in zip(parts, map(remap.read_table, model.families)):
        found = checkpoint.read_tensors(parts[part])[1] if part not in drawn else {}
        if part not in paired:
            bare = not any(name.startswith(table.prefix + ".") for name in found)
            new += ["decoder.head."] if part == "decoder" and bare else []
            found = {
                f"{part}.{name}": value for name, value in remap.inside_pair(found, table).items()
            }
        theirs |= {name: value for name, value in found.items() if name.startswith(part + ".")}
    rows = [
        (ours, right, words | {"optional"} if ours.startswith((*new, *drawn)) else words)
        for ours, right, words in pretrained.table_rows(model.families)
    ]
    where = ", ".join(map(str, dict.fromkeys(folders)))
    state = remap.import_state(rows, theirs, model.state_dict(), where)
    names = {name for name in model.state_dict() if name.startswith(tuple(drawn))}
    state |= {name: torch.empty(model.get_parameter(name).shape) for name in names}
    return draw_weights(
        pretrained.fill(model, state, getattr(torch, config.dtype), "cpu", where), names
    )


@torch.no_grad()
def draw_weights(model: SpeechEncoderDecoder, names: set[str]) -> SpeechEncoderDecoder:
    """The model with these weights drawn."""
    initialize_weights(model, names)
    return model


def empty_like(
    model: SpeechEncoderDecoder,
    encoder: EncoderConfig | None = None,
    decoder: DecoderConfig | None = None,
) -> SpeechEncoderDecoder:
    """The same model, or with other configs, on the meta device: without weights."""
    with torch.device("meta"), pretrained.Undrawn():
        empty = SpeechEncoderDecoder(
            encoder or model.encoder.config, decoder or model.decoder.config, model.generation
        )
    empty.families = model.families
    return empty


def rebuild_model(
    model: SpeechEncoderDecoder, config: TrainConfig, vocab_size: int
) -> SpeechEncoderDecoder:
    """The same weights under the config's dropouts and rates of masking; those of another shape are drawn."""
    given = {
        part.name: value
        for part in fields(EncoderTraining)
        if (value := getattr(config, part.name)) is not None
    }
    both = {name: given[name] for name in ("hidden_dropout", "attention_dropout") if name in given}
    encoder, decoder = model.encoder.config, model.decoder.config
    encoder = replace(encoder, training=replace(encoder.training, **given))
    built = config.vocabulary != "decoder" and decoder.pad_token_id is not None
    decoder = replace(
        decoder,
        training=replace(decoder.training, **both),
        vocab_size=vocab_size,
        pad_token_id=model.generation.pad_token_id if built else decoder.pad_token_id,
    )
    empty, state = empty_like(model, encoder, decoder), model.state_dict()
    state = {
        name: state[name]
        for name, part in empty.state_dict().items()
        if name in state and state[name].shape == part.shape
    }
    return pretrained.fill(empty, state, model.encoder.norm.weight.dtype, "cpu", "training")


def build_vocabulary(items: list[Item], config: TrainConfig, pad: int | None) -> tuple:
    """A tokenizers.Tokenizer of all characters, for bpe of pairs, too; and the ids of its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    languages = [
        name for name, _ in Counter(item.language for item in items if item.language).most_common()
    ]
    special = ["<s>", "</s>", "<unk>", *(f"<{language}>" for language in languages)]
    pad = pad if pad is not None and pad <= len(special) else 0
    special.insert(pad, "<pad>")
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    size = config.vocab_size if config.vocabulary == "bpe" else 0
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    backend.train_from_iterator((item.text for item in items), trainer)
    start, end = special.index("<s>"), special.index("</s>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    ids = {language: special.index(f"<{language}>") for language in languages}
    return backend, GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=pad,
        forced_bos_token_id=next(iter(ids.values()), None),
        lang_to_id=ids or None,
    )
