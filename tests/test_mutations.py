# pytest -m slow tests/test_mutations.py
"""Do the tests notice mistakes? Break a line of the package: a test of the default tier must fail.

Each row of MISTAKES replaces some text of a file in a copy of the repository, and runs one test
there. If you change a line that is listed here, change its row as well. The mistakes of
test_mutations_of_the_core.py are made while the core runs, and measured by its parity helpers.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.forked_pytest import ForkedPytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


class Mistake(NamedTuple):
    """A mistake in a file of nanos2t, and the test that notices it."""

    file: str
    text: str  # which the file has once
    replacement: str
    test: str


# Padding, the norms of the encoder, the loss, the weights.
MODEL = [
    Mistake(
        "wav2vec2.py",
        "return x.masked_fill(padding[:, :, None], 0.0)",
        "return x",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "x = zero_padding(x[:, :, None], sample_lengths)",
        "x = x[:, :, None]",
        "test_wav2vec2.py::test_padding_of_clips_shorter_than_one_frame_is_not_looked_at",
    ),
    Mistake(
        "wav2vec2.py",
        "x = zero_padding(x, frame_lengths)\n",
        "\n",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "x = zero_padding(x, lengths)\n",
        "\n",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "x = zero_padding(layer(x), frame_lengths)",
        "x = layer(x)",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "clamp(max=num_buckets - 1)",
        "clamp(max=num_buckets)",
        "test_wav2vec2.py::test_every_distance_has_the_bucket_of_hf",
    ),
    Mistake(
        "initialize.py",
        "(nn.LayerNorm, nn.GroupNorm, PositionGate)",
        "(nn.LayerNorm, nn.GroupNorm)",
        "test_initialize.py::test_initialisation_follows_the_laws_of_hf",
    ),
    Mistake(
        "wav2vec2.py",
        "    if recompute:",
        "    if False:",
        "test_torch_tools.py::test_checkpointing_computes_blocks_again_and_gives_the_same_gradients",
    ),
    Mistake(
        "model.py",
        "decode_memory(self, memory, frame_lengths,",
        "decode_memory(self, memory, None,",
        "test_generate.py::test_generate_from_memory_is_generate",
    ),
    Mistake(
        "wav2vec2.py",
        "x = self.norm(x, lengths)",
        "x = self.norm(x, None)",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "squares = torch.where(is_real, centred.square(), 0.0)",
        "squares = centred.square()",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "wav2vec2.py",
        "mean = torch.where(is_real, x, 0.0).sum(2, keepdim=True, dtype=dtype) / count",
        "mean = torch.where(is_real, x, 0.0).mean(2, keepdim=True, dtype=dtype)",
        "test_wav2vec2.py::test_batch_is_alone",
    ),
    Mistake(
        "decoder.py",
        "self.values[rows, :, : self.length]",
        "self.values[:, :, : self.length]",
        "test_decoder.py::test_reorder",
    ),
    Mistake(
        "model.py",
        "(total / count.clamp(min=1))",
        "(total / count)",
        "test_model.py::test_labels_that_are_all_ignored",
    ),
    Mistake(
        "initialize.py",
        "parameter[module.padding_idx].zero_()",
        "pass",
        "test_initialize.py::test_initialisation_follows_the_laws_of_hf",
    ),
    Mistake(
        "fast/feature_encoder.py",
        "fold_norm(item[:frame_count], self",
        "fold_norm(item, self",
        "fast/test_feature_encoder.py::test_a_layer_is_the_cores",
    ),
    Mistake(
        "fast/packed.py",
        "        self.take(layer)\n\n    def _apply",
        "\n    def _apply",
        "fast/test_optimise.py::test_new_weights_are_used_at_once",
    ),
    Mistake(
        "fast/positional_conv.py",
        "self.direction = core.direction",
        "self.direction = nn.Parameter(core.direction.detach().clone())",
        "fast/test_optimise.py::test_other_parameters_are_those_of_the_core",
    ),
    Mistake(
        "fast/optimise.py",
        "return model.train(model.training)",
        "return model",
        "fast/test_optimise.py::test_a_fast_model_has_the_names_the_weights_and_the_mode_of_the_core",
    ),
]

# Options, scores and searches.
GENERATION = [
    Mistake(
        "generation_config.py",
        "and abs(value) < 2**31",
        "",
        "test_generation_config.py::test_a_bad_default_is_named",
    ),
    Mistake(
        "generation_config.py",
        "config.validate()",
        "pass",
        "test_generation_config.py::test_errors_name_the_option",
    ),
    Mistake(
        "generation_config.py",
        "if not 0 <= token_id < vocab_size:",
        "if not token_id < vocab_size:",
        "test_generation_config.py::test_an_id_outside_the_vocabulary",
    ),
    Mistake(
        "logits_processing.py",
        "torch.where(seen < 0, seen * penalty, seen / penalty)",
        "seen / penalty",
        "test_logits_processing.py::"
        "test_the_repetition_penalty_makes_negative_scores_more_negative",
    ),
    Mistake(
        "logits_processing.py",
        "if size == 0 or size > T:",
        "if size == 0 or size >= T:",
        "test_logits_processing.py::test_ban_repeats_is_the_naive_one",
    ),
    Mistake(
        "logits_processing.py",
        "is_banned[:, -min_tokens_to_keep:] = False",
        "pass",
        "test_logits_processing.py::test_warp_keeps_the_likeliest_tokens",
    ),
    Mistake(
        "generate.py",
        "cache.reorder(parent_rows)",
        "pass",
        "test_generate.py::test_with_a_cache_and_shared_memory_or_without",
    ),
    Mistake(
        "generate.py",
        "parent_beams = index // V",
        "parent_beams = index % K",
        "test_beam_search.py::test_beams_as_wide_as_the_tree_find_all_sequences_in_order",
    ),
    Mistake(
        "generate.py",
        "parent_beams.gather(1, kept)",
        "parent_beams[:, :K]",
        "test_generate.py::test_with_a_cache_and_shared_memory_or_without",
    ),
    Mistake(
        "generate.py",
        "ended[:, K:] = False",
        "pass",
        "test_beam_search.py::test_only_the_first_num_beams_candidates_may_end",
    ),
    Mistake(
        "generate.py",
        "scores = demote(scores, ~is_searching)",
        "pass",
        "test_beam_search.py::test_what_is_decided_stays_decided_beside_samples",
    ),
    Mistake(
        "generate.py",
        "next_token.masked_fill(was_ended[:, None], pad_id)",
        "next_token",
        "test_greedy_search.py::test_greedy_pads_behind_the_eos_and_stops_when_all_have_ended",
    ),
    Mistake(
        "beams.py",
        "return torch.where(mask, scores + IMPOSSIBLE, scores)",
        "return scores",
        "test_beam_search.py::test_a_beam_runs_on_although_all_likelier_tokens_are_eos",
    ),
    Mistake(
        "beams.py",
        "scores[:, 0] = 0.0",
        "scores[:] = 0.0",
        "test_beam_search.py::test_beams_as_wide_as_the_tree_find_all_sequences_in_order",
    ),
]

# Files and checkpoints.
FILES = [
    Mistake(
        "files.py",
        "part.unlink()",
        "pass",
        "test_files.py::test_what_can_not_be_written_is_kept",
    ),
    Mistake(
        "files.py",
        "path.with_name(",
        "Path(",
        "cli/test_reliability.py::"
        "test_a_local_model_needs_no_socket_and_writes_into_the_output_folder_only",
    ),
    Mistake(
        "files.py",
        "os.replace(part, target)",
        "path.write_bytes(part.read_bytes())",
        "cli/test_transcribe.py::test_a_file_is_whole_or_not_there",
    ),
    Mistake(
        "files.py",
        "lambda part: part.write_bytes(",
        "lambda part: path.write_bytes(",
        "test_files.py::test_text_and_copies_replace_what_was_there",
    ),
    Mistake(
        "files.py",
        '(OSError, RuntimeError) as error:\n        raise ValueError(\n            f"{path}',
        'OSError as error:\n        raise ValueError(\n            f"{path}',
        "test_files.py::test_what_can_not_be_written_is_kept",
    ),
    Mistake(
        "files.py",
        "partial.mkdir(0o700)\n            write_parts(partial)",
        "partial.mkdir(0o700)\n            write_parts(folder)",
        "test_checkpoint.py::test_a_failed_save_leaves_the_old_files",
    ),
    Mistake(
        "files.py",
        "key=lambda part: part.name == last",
        "key=lambda part: part.name != last",
        "test_files.py::test_the_last_file_of_a_group_is_moved_at_the_end",
    ),
    Mistake(
        "checkpoint.py",
        "weights_only=True",
        "weights_only=False",
        "test_checkpoint.py::test_a_hostile_pickle_is_not_run",
    ),
    Mistake(
        "checkpoint.py",
        "if path not in written:",
        "if False:",
        "test_checkpoint.py::test_shards_are_written_read_and_replaced",
    ),
    Mistake(
        "checkpoint.py",
        "if Path(name).name != name or not is_tensor_file:",
        "if False:",
        "test_checkpoint.py::test_pickles_in_shards",
    ),
    Mistake("remap.py", "if missing:", "if False:", "test_remap.py::test_damage_is_named"),
    Mistake(
        "training/state.py",
        "write_atomically(path, write)",
        "write(path)",
        "training/test_state.py::test_a_save_that_fails_leaves_the_old_file",
    ),
]

# Audio, transcription and what observes it.
TRANSCRIPTION = [
    Mistake(
        "__init__.py",
        "model = SpeechEncoderDecoder.from_pretrained(folder, dtype=weights_dtype, device=device)",
        'model = vars(load).setdefault("m", SpeechEncoderDecoder.from_pretrained('
        "folder, dtype=weights_dtype, device=device))",
        "transcription/test_batches.py::test_threads_share_a_model",
    ),
    Mistake(
        "recordings/decoding.py",
        "with suppress(OSError, ValueError):",
        "if True:",
        "recordings/test_decoding.py::test_a_seek_to_nowhere_is_no_traceback",
    ),
    Mistake(
        "recordings/decoding.py",
        "if whence == os.SEEK_CUR",
        "if False",
        "recordings/test_decoding.py::test_a_stream_seeks_like_a_file",
    ),
    Mistake(
        "transcription/recordings.py",
        "recording.error = failure",
        "raise failure",
        "transcription/test_batches.py::test_one_that_fails",
    ),
    Mistake(
        "transcription/transcriber.py",
        "self.model.encode(input_values, attention_mask)",
        "self.model.encode(input_values)",
        "transcription/test_batches.py::test_the_batch_changes_nothing",
    ),
    Mistake(
        "transcription/transcriber.py",
        "zip(batch, results)",
        "zip(batch, results[::-1])",
        "transcription/test_batches.py::test_the_batch_changes_nothing",
    ),
    Mistake(
        "transcription/transcriber.py",
        "recordings: deque[Recording] = deque()",
        'recordings = vars(self).setdefault("jobs", deque())',
        "transcription/test_batches.py::test_threads_share_a_model",
    ),
    Mistake(
        "transcription/transcriber.py",
        "for chunk in batch], request)",
        'for chunk in batch], vars(self).setdefault("c", request))',
        "transcription/test_batches.py::test_threads_share_a_model",
    ),
    Mistake(
        "transcription/loading.py",
        "1000 <= rate <= 10**6",
        "1000 <= rate",
        "transcription/test_loading.py::test_a_broken_preprocessor_is_named",
    ),
    Mistake(
        "transcription/loading.py",
        'if name == "":',
        "import _socket\n    if not _socket.socket():",
        "cli/test_reliability.py::"
        "test_a_local_model_needs_no_socket_and_writes_into_the_output_folder_only",
    ),
    Mistake(
        "transcription/spelling.py",
        "except Exception as error:",
        "except KeyError as error:",
        "transcription/test_forced_alignment.py::test_a_text_that_has_no_tokens",
    ),
    Mistake(
        "transcription/spelling.py",
        "if fold(decoded) != ",
        "if fold(text) != ",
        "transcription/test_spelling.py::test_what_the_vocabulary_lacks_is_named",
    ),
    Mistake(
        "transcription/alignment.py",
        "if stored is None:",
        "if True:",
        "transcription/test_word_times.py::"
        "test_parts_of_a_german_number_are_where_their_digits_were_said",
    ),
    Mistake(
        "transcription/alignment.py",
        "has_peak = focus >= min(MIN_FOCUS, focus.max())",
        "has_peak = focus >= 0",
        "transcription/test_word_times.py::"
        "test_words_without_a_time_of_their_own_have_that_of_the_word_before",
    ),
    Mistake(
        "training/evaluation.py",
        "compared = [pair for pair in pairs if not are_empty(*pair)]",
        "compared = list(pairs)",
        "training/test_evaluation.py::test_two_empty_texts_are_not_right",
    ),
    Mistake(
        "inspection/trace.py",
        "    stt.model(input_values, decoder_input_ids=tokens)\n",
        "",
        "inspection/test_trace.py::test_times_are_of_a_second_call",
    ),
    Mistake(
        "inspection/observer.py",
        "hook = module.register_forward_hook(keep_weights, with_kwargs=True)\n"
        "            hooks.enter_context(hook)",
        "module.register_forward_hook(keep_weights, with_kwargs=True)",
        "inspection/test_observer.py::test_hooks_go_when_the_pass_fails",
    ),
    Mistake(
        "inspection/observer.py",
        "hook = module.register_forward_hook(partial(keep_output, name))\n"
        "            hooks.enter_context(hook)",
        "module.register_forward_hook(partial(keep_output, name))",
        "inspection/test_observer.py::test_hooks_go_when_the_pass_fails",
    ),
]

# The command line.
COMMANDS = [
    Mistake(
        "cli/inputs.py",
        'if any("\\0" in line for line in names):',
        "if False:",
        "cli/test_main.py::test_usage",
    ),
    Mistake("cli/main.py", "return INTERRUPTED", "return 0", "cli/test_main.py::test_interrupted"),
    Mistake(
        "cli/main.py",
        "signal.signal(number, handler)",
        "pass",
        "cli/test_reliability.py::test_stopped_at_some_moment",
    ),
    Mistake(
        "cli/transcribe.py",
        "if not os.path.exists(path)",
        "",
        "cli/test_transcribe.py::test_skip_existing_does_the_rest",
    ),
    Mistake(
        "training/loop.py",
        "                state.check_weights()\n",
        "",
        "training/test_loop.py::test_a_learning_rate_that_ruins_the_weights_stops_at_once",
    ),
    Mistake(
        "cli/transcribe.py",
        "return FAILED if num_failed else 0\n\n\ndef streams_stdin",
        "return 0\n\n\ndef streams_stdin",
        "cli/test_transcribe.py::test_all_files_fail",
    ),
]

MISTAKES = [*MODEL, *GENERATION, *FILES, *TRANSCRIPTION, *COMMANDS]


def name_mistake(mistake: Mistake) -> str:
    return f"{mistake.file}-{mistake.text[:30]}"


@pytest.fixture(scope="module")
def forked_pytest() -> Iterator[ForkedPytest]:
    with ForkedPytest() as server:
        yield server


@pytest.mark.parametrize("mistake", MISTAKES, ids=name_mistake)
def test_a_broken_app_is_noticed(tmp_path: Path, forked_pytest: ForkedPytest, mistake: Mistake):
    # Copy what the tests need of the repository.
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("nanos2t", "tests", "weights_map"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)

    # Make the mistake.
    path = tmp_path / "nanos2t" / mistake.file
    source = path.read_text()
    assert source.count(mistake.text) == 1
    path.write_text(source.replace(mistake.text, mistake.replacement))

    # The test must fail: an error of its set-up, or no such test, gives another code or output.
    code, output = forked_pytest.run(
        tmp_path, "-q", "-x", "-p", "no:cacheprovider", f"tests/{mistake.test}"
    )
    assert code == 1, output[-2000:]
    assert " failed" in output, output[-2000:]
