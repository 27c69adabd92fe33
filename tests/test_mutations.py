# pytest -m slow tests/test_mutations.py
"""Are the tests awake? Break the code on purpose: the checks of the other test files must fail by
far.

With the weights of a new model (std 0.02) most of these mistakes would pass at 1e-3 (design.md,
section 7).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import decoder_parity, encoder_parity, model_parity
from helpers.encoder_parity import TOLERANCE
from pytest import MonkeyPatch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import decoder, wav2vec2
from nanos2t import model as nanos2t_model

pytestmark = pytest.mark.slow

FAR = 1e-3
ROOT = Path(__file__).parents[1]


def check_encoder(variant: str) -> float:
    return max(encoder_parity.stage_differences(variant).values())


def check_decoder(variant: str) -> float:
    return max(decoder_parity.stage_differences(variant).values())


def check_model(pair: str) -> float:
    return max(model_parity.differences(pair).values())


encoder_batch = encoder_parity.batch_difference
future, padding, reorder = (
    decoder_parity.leak_of_the_future,
    decoder_parity.leak_of_padding,
    decoder_parity.reorder_difference,
)


def cached(variant: str) -> float:
    return max(
        decoder_parity.cache_difference(variant, sizes)
        for sizes in ([1] * 9, [2, 2, 2, 2, 1], [3, 3, 3])
    )


# Attention


def attend_with(patch: MonkeyPatch, change: Callable) -> None:
    """`change(queries, keys, mask, is_causal)` gives the mask that attention gets instead."""
    attend = wav2vec2.attend

    def broken(queries, keys, values, mask=None, is_causal=False, dropout=0.0):
        return attend(queries, keys, values, change(queries, keys, mask, is_causal), False, dropout)

    patch.setattr(wav2vec2, "attend", broken)


def square(queries: Tensor, keys: Tensor, diagonal: int) -> Tensor:
    return torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril(diagonal)


def no_causal_mask(patch):
    attend_with(patch, lambda queries, keys, mask, is_causal: mask)


def mask_peeks_one_ahead(patch):
    attend_with(
        patch,
        lambda queries, keys, mask, is_causal: square(queries, keys, 1) if is_causal else mask,
    )


def mask_of_a_chunk_peeks_one_ahead(patch):
    patch.setattr(
        decoder,
        "causal_mask",
        lambda T, past, device: torch.ones(T, past + T).bool().tril(past + 1),
    )


def mask_of_a_chunk_forgets_the_past(patch):
    patch.setattr(
        decoder, "causal_mask", lambda T, past, device: torch.ones(T, past + T).bool().tril()
    )


def no_key_mask(patch):
    attend_with(
        patch,
        lambda queries, keys, mask, is_causal: square(queries, keys, 0) if is_causal else None,
    )


def scale_by_all_heads(patch):
    attend = wav2vec2.attend

    def broken(queries, *rest):
        return attend(queries / queries.shape[1] ** 0.5, *rest)

    patch.setattr(wav2vec2, "attend", broken)


def heads_interleaved(patch):
    def split(self, x):
        return x.unflatten(2, (-1, self.num_heads)).permute(0, 3, 1, 2)

    patch.setattr(wav2vec2.Attention, "split_heads", split)


def heads_cut_across_time(patch):
    def split(self, x):
        return x.reshape(x.shape[0], self.num_heads, x.shape[1], -1)

    patch.setattr(wav2vec2.Attention, "split_heads", split)


# Encoder


def no_gain(patch):
    conv = wav2vec2.position_conv

    def broken(x, gain, direction, bias, groups):
        return conv(x, direction.norm(dim=(0, 1), keepdim=True), direction, bias, groups)

    patch.setattr(wav2vec2, "position_conv", broken)


def weight_norm_of_each_output(patch):
    def broken(x, gain, direction, bias, groups):
        weight = gain * direction / direction.norm(dim=(1, 2), keepdim=True)
        y = F.conv1d(x.transpose(1, 2), weight, bias, padding=weight.shape[2] // 2, groups=groups)
        return y[..., : x.shape[1]].transpose(1, 2)

    patch.setattr(wav2vec2, "position_conv", broken)


def crops_the_first_frame(patch):
    conv = wav2vec2.position_conv

    def broken(x, *rest):
        return conv(F.pad(x, (0, 0, 0, 1)), *rest)[:, 1:]

    patch.setattr(wav2vec2, "position_conv", broken)


def no_zeros_before(patch, widths: set[int]) -> None:
    zero_padding = wav2vec2.zero_padding

    def broken(x, frames):
        return x if x.shape[2] in widths else zero_padding(x, frames)

    patch.setattr(wav2vec2, "zero_padding", broken)


def no_zeros_before_positions(patch):
    no_zeros_before(patch, {45})


def no_zeros_before_adapter(patch):
    no_zeros_before(patch, {19, 57})


def group_norm_over_the_padding(patch):
    def broken(x, frames, weight, bias, eps=1e-5):
        return F.group_norm(x, x.shape[1], weight, bias, eps)

    patch.setattr(wav2vec2, "masked_group_norm", broken)


def biased_by_one_frame(patch):
    clip_norm = wav2vec2.masked_group_norm

    def broken(x, frames, *rest):
        return clip_norm(x, None if frames is None else frames + 1, *rest)

    patch.setattr(wav2vec2, "masked_group_norm", broken)


def norms_of_the_encoder_swapped(patch):
    for variant in encoder_parity.VARIANTS:
        block = encoder_parity.encoders(variant)[1].blocks[0]
        swap(patch, block, "self_attn_norm", "mlp_norm")


def swap(patch: MonkeyPatch, module: nn.Module, *names: str) -> None:
    for name, part in zip(names, [getattr(module, name) for name in reversed(names)], strict=True):
        put(patch, module, name, part)


def put(patch: MonkeyPatch, module: nn.Module, name: str, part: object) -> None:
    """Set an attribute for one test. A module keeps its parts in dictionaries: undo it there."""
    for parts in (module._modules, module._parameters):
        if name in parts:
            return patch.setitem(parts, name, part)
    patch.setattr(module, name, part)


# Decoder


def all_decoders() -> list[decoder.Decoder]:
    pairs = [model_parity.models(pair)[1].decoder for pair in model_parity.PAIRS]
    return pairs + [decoder_parity.decoders(variant)[1] for variant in decoder_parity.VARIANTS]


def no_cross_attention(patch):
    patch.setattr(decoder.Block, "attend_memory", lambda self, x, memory, mask: torch.zeros_like(x))


def beams_look_at_other_utterances(patch):
    def broken(self, x, memory, mask):
        beams = x.reshape(-1, memory[0].shape[0], *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        y = self.cross_attn(beams, *memory, mask).unflatten(1, (-1, x.shape[1]))
        return y.transpose(0, 1).reshape(x.shape)

    patch.setattr(decoder.Block, "attend_memory", broken)


def norms_of_the_decoder_swapped(patch):
    for model in all_decoders():
        swap(patch, model.blocks[-1], "self_attn_norm", "cross_attn_norm")


def no_last_norm(patch):
    for model in all_decoders():
        put(patch, model, "norm", nn.Identity())


def positions_off_by_one(patch):
    for model in all_decoders():
        shifted = replace(
            model.embed.config, position_offset=model.embed.config.position_offset + 1
        )
        patch.setattr(model.embed, "config", shifted)


def positions_start_again(patch):
    forward = decoder.Embedding.forward
    patch.setattr(decoder.Embedding, "forward", lambda self, tokens, past: forward(self, tokens, 0))


def no_scale(patch):
    for model in all_decoders():
        patch.setattr(model.embed, "config", replace(model.embed.config, embed_scale=1.0))


def no_token_type(patch):
    for model in all_decoders():
        put(patch, model.embed, "token_types", None)


def no_transform(patch):
    for model in all_decoders():
        put(patch, model.head, "transform", nn.Identity())


def no_output_bias(patch):
    for model in all_decoders():
        put(patch, model.head, "bias", None)


def always_tied(patch):
    for model in all_decoders():
        put(patch, model.head, "weight", None)


def tanh_gelu(patch):
    tanh = wav2vec2.ACTIVATIONS["gelu_tanh"]()
    patch.setattr(wav2vec2.MLP, "forward", lambda self, x: self.down_proj(tanh(self.up_proj(x))))


def tanh_gelu_in_the_head(patch):
    for model in all_decoders():
        if model.config.mlm_head:
            put(patch, model.head.transform, "activation", wav2vec2.ACTIVATIONS["gelu_tanh"]())


def cache_stays(patch):
    patch.setattr(decoder.KVCache, "reorder", lambda self, rows: None)


# Whole


class Cut(nn.Module):
    def forward(self, x):
        return x[..., :35]


def bridge_skipped(patch):
    for pair in model_parity.PAIRS:
        if isinstance(model_parity.models(pair)[1].bridge, nn.Linear):
            put(patch, model_parity.models(pair)[1], "bridge", Cut())


def labels_not_shifted(patch):
    patch.setattr(
        nanos2t_model,
        "shift_right",
        lambda labels, start, pad: labels.masked_fill(labels == -100, pad),
    )


def ignored_labels_counted(patch):
    def broken(logits, labels):
        return (
            F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            / labels.numel()
        )

    patch.setattr(nanos2t_model, "cross_entropy", broken)


NOTICED = [  # mistake, check, its argument
    (no_causal_mask, future, "bert"),
    (no_causal_mask, future, "gpt2"),
    (no_causal_mask, check_decoder, "bert"),
    (no_causal_mask, check_model, "base"),
    (mask_peeks_one_ahead, future, "bert"),
    (mask_peeks_one_ahead, check_decoder, "mbart"),
    (mask_of_a_chunk_peeks_one_ahead, cached, "bert"),
    (mask_of_a_chunk_forgets_the_past, cached, "bert"),
    (no_key_mask, encoder_batch, "large"),
    (no_key_mask, check_encoder, "base"),
    (no_key_mask, padding, "bert"),
    (no_key_mask, check_decoder, "gpt2"),
    (no_key_mask, check_model, "adapter"),
    (scale_by_all_heads, check_encoder, "large"),
    (scale_by_all_heads, check_decoder, "bert"),
    (heads_interleaved, check_encoder, "base"),
    (heads_interleaved, check_decoder, "bert"),
    (heads_cut_across_time, check_encoder, "large"),
    (heads_cut_across_time, check_decoder, "bart"),
    (no_gain, check_encoder, "base"),
    (no_gain, check_encoder, "group, pre-norm, odd kernel"),
    (weight_norm_of_each_output, check_encoder, "large"),
    (crops_the_first_frame, check_encoder, "base"),
    (no_zeros_before_positions, encoder_batch, "base"),
    (no_zeros_before_positions, check_encoder, "hubert large, conv gelu_tanh"),
    (no_zeros_before_adapter, encoder_batch, "adapter, other width"),
    (no_zeros_before_adapter, check_encoder, "group, adapter, other width"),
    (group_norm_over_the_padding, encoder_batch, "base"),
    (group_norm_over_the_padding, check_encoder, "group, adapter"),
    (biased_by_one_frame, encoder_batch, "base"),
    (norms_of_the_encoder_swapped, check_encoder, "base"),
    (norms_of_the_encoder_swapped, check_encoder, "large"),
    (no_cross_attention, check_decoder, "bert"),
    (no_cross_attention, check_model, "base, no bridge"),
    (beams_look_at_other_utterances, check_decoder, "bert"),
    (norms_of_the_decoder_swapped, check_decoder, "bert"),
    (norms_of_the_decoder_swapped, check_decoder, "mbart"),
    (no_last_norm, check_decoder, "gpt2"),
    (positions_off_by_one, check_decoder, "bert"),
    (positions_off_by_one, check_decoder, "bart"),
    (positions_start_again, cached, "bert"),
    (no_scale, check_decoder, "mbart"),
    (no_token_type, check_decoder, "bert"),
    (no_transform, check_decoder, "bert"),
    (no_output_bias, check_decoder, "bert"),
    (always_tied, check_decoder, "bert, untied"),
    (tanh_gelu, check_encoder, "base"),
    (tanh_gelu, check_decoder, "bert"),
    (tanh_gelu, check_model, "large"),
    (tanh_gelu_in_the_head, check_decoder, "bert"),
    (cache_stays, reorder, "bert"),
    (bridge_skipped, check_model, "base"),
    (bridge_skipped, check_model, "adapter"),
    (labels_not_shifted, check_model, "base"),
    (ignored_labels_counted, check_model, "base"),
]


# what uses the model: a line of a file is another, and a test of those that run by default must
# fail

RELIES, CLI = "test_reliability.py::test_", "test_cli.py::test_"
SPOKEN, SOUND = "transcription/test_transcriber.py::test_", "test_audio_files.py::test_"
BROKEN = [  # file of nanos2t, what stands there, what instead, the test
    ("files.py", "part.unlink()", "pass", RELIES + "a_file_that_does_not_fit"),
    ("files.py", 'path.with_name(path.name + ".part")', 'Path(f"{path.name}.part")',
     RELIES + "a_local_model"),
    ("files.py", "os.replace(part, path)", "path.write_bytes(part.read_bytes())",
     CLI + "a_file_is_whole"),
    ("files.py", "lambda part: part.write_bytes(", "lambda part: path.write_bytes(",
     "test_files.py::test_text_and_copies"),
    ("files.py", "(OSError, RuntimeError)", "OSError", "test_files.py::test_what_can_not"),
    ("cli/inputs.py", 'if any("\\0" in line for line in names):', "if False:", CLI + "usage"),
    ("cli/main.py", "return INTERRUPTED", "return 0", RELIES + "stopped_at_some_moment[2]"),
    ("cli/main.py", "signal.signal(signal.SIGTERM, signal.default_int_handler)", "None",
     RELIES + "stopped_at_some_moment[15]"),
    ("cli/transcribe.py", "if not os.path.exists(path)", "", RELIES + "a_closed_pipe"),
    ("audio_files.py", "with suppress(OSError, ValueError):", "if True:", SOUND + "a_seek_to_nowhere"),
    ("audio_files.py", "if whence == os.SEEK_CUR", "if False", SOUND + "a_stream_seeks_like_a_file"),
    ("transcription/recordings.py", "recording.error = failure", "raise failure", RELIES + "many_files"),
    ("transcription/transcriber.py", "self.model.encode(input_values, attention_mask)", "self.model.encode(input_values)",
     RELIES + "a_batch_is"),
    ("transcription/transcriber.py", "zip(batch, results)", "zip(batch, results[::-1])", RELIES + "a_batch_is"),
    ("transcription/transcriber.py", "recordings: deque[Recording] = deque()",
     'recordings = vars(self).setdefault("jobs", deque())',
     "transcription/test_batches.py::test_threads"),
    ("transcription/transcriber.py", "for chunk in batch], request)",
     'for chunk in batch], vars(self).setdefault("c", request))', "transcription/test_batches.py::test_threads"),
    ("__init__.py", "model = SpeechEncoderDecoder.from_pretrained(folder, dtype=weights_dtype, device=device)",
     'model = vars(load).setdefault("m", SpeechEncoderDecoder.from_pretrained(folder, dtype=weights_dtype, device=device))',
     "transcription/test_batches.py::test_threads"),
    ("transcription/loading.py", "1000 <= rate <= 10**6", "1000 <= rate", "transcription/test_loading.py::test_a_broken_preprocessor"),
    ("transcription/loading.py", 'if name == "":', "import _socket\n    if not _socket.socket():",
     RELIES + "a_local_model"),
    ("transcription/spelling.py", "except Exception as error:", "except KeyError as error:",
     "test_forced_alignment.py::test_a_text_that"),
    ("transcription/spelling.py", "if fold(decoded) != ", "if fold(text) != ",
     "test_spelling.py::test_what_the_vocabulary_lacks"),
    ("generation_config.py", "and abs(value) < 2**31", "", "test_generation_config.py::test_a_bad_default"),
    ("checkpoint.py", "weights_only=True", "weights_only=False", RELIES + "a_pickle_runs_nothing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "test"), BROKEN, ids=[f"{row[0]}-{row[1][:30]}" for row in BROKEN]
)
def test_a_broken_app_is_noticed(tmp_path: Path, file: str, old: str, new: str, test: str):
    ignored = shutil.ignore_patterns("__pycache__", "exercises")
    for name in "nanos2t", "tests", "weights_map":
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    path = tmp_path / "nanos2t" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    name, _, which = test.partition("::")
    chosen = [f"tests/{test}"] if "[" in test else [f"tests/{name}", "-k", which]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        *chosen,
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("mistake", "check", "argument"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[1].__name__}-{row[2]}") for row in NOTICED],
)
def test_the_mistake_is_noticed(mistake, check, argument, monkeypatch):
    assert check(argument) < TOLERANCE
    mistake(monkeypatch)
    assert check(argument) > FAR
    monkeypatch.undo()
    assert check(argument) < TOLERANCE


@pytest.mark.parametrize(
    ("check", "argument", "model"),
    [
        (check_encoder, "base", lambda: encoder_parity.encoders("base")[1]),
        (
            check_encoder,
            "adapter, other width",
            lambda: encoder_parity.encoders("adapter, other width")[1],
        ),
        (check_decoder, "bert", lambda: decoder_parity.decoders("bert")[1]),
    ],
    ids=["base", "adapter, other width", "bert"],
)
def test_a_wrong_epsilon_is_noticed(check, argument, model, monkeypatch):
    """The smallest mistake of all, of one norm: 1e-10 sees it, 1e-4 would not always."""
    for part in model().modules():
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            with monkeypatch.context() as patch:
                patch.setattr(part, "eps", 1e-3 if part.eps == 1e-5 else 1e-5)
                assert check(argument) > 1e3 * TOLERANCE


def test_the_key_bias_cannot_be_noticed(monkeypatch):
    """Softmax does not care what all its inputs have in common: only the round trip of tensors
    guards it.
    """

    def project_keys_values(self, source):
        return self.split_heads(F.linear(source, self.k_proj.weight)), self.split_heads(
            self.v_proj(source)
        )

    monkeypatch.setattr(wav2vec2.Attention, "project_keys_values", project_keys_values)
    assert check_encoder("base") < TOLERANCE
    assert check_decoder("bert") < TOLERANCE
