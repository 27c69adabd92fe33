"""The exercises: what is to be written, the hints, and which check calls which function.

The checks never look at the answers: keys/ has what the package returns, and what known mistakes
return.
"""

import re
from importlib import import_module

from exercises import checks_decoder, checks_encoder, checks_search, checks_weights
from exercises.exercise import Exercise

TORCH = "import torch\nfrom torch import Tensor\nfrom torch.nn import functional as F\n"
PADDING_LEAKS = "the values in the padding change the real frames"

NORMALISATION = Exercise(
    name="ex01_normalisation",
    lesson="01_waveform_to_frames",
    minutes=15,
    difficulty=1,
    title="normalisation",
    task="""\
        The model expects every waveform to have mean 0 and variance 1, however loud it was
        recorded. Each clip is normalised alone, before clips of different lengths are padded
        with zeros to form a batch. Silence, and any other constant, becomes 0
        (as nearly as float32 finds the mean of a constant).

        `eps` is added to the variance, under the root. The result is a NumPy array of float32,
        also if the waveform is float64.""",
    imports="import numpy as np\n",
    checks={"audio:normalise": checks_encoder.check_normalise},
    hints=(
        "Subtract the mean first. Divided by its own standard deviation, the rest has variance 1.",
        "Silence has variance 0, and 0 / 0 is NaN: add eps to the variance before you take the "
        "root.",
        "numpy has waveform.mean() and waveform.var(); var divides by the number of samples, "
        "which is what we want.",
    ),
    laws={},
)

FRAMES = Exercise(
    name="ex02_frames",
    lesson="01_waveform_to_frames",
    minutes=20,
    difficulty=1,
    title="frame counts and masks",
    task="""\
        Seven convolutions without padding turn samples into frames: 16,000 samples become 49
        frames, not 50. In a batch each item has its own length, and every operation that mixes
        time steps must know where an item ends. `conv` has `.kernel_size`, `.stride` and
        `.padding`, each a tuple of one number. Padding is added on both sides, and a window that
        does not fit makes no frame.

        The buffer may be longer than every item. `zero_padding` returns x in its full shape and
        type, and puts 0 where padding was, even if that was NaN or infinity; real frames stay as
        they are. `lengths` may be None: then nothing is padded, and conv_output_lengths returns
        None, zero_padding all of x.""",
    imports="import torch\nfrom torch import Tensor, nn\n",
    checks={
        "wav2vec2:conv_output_lengths": checks_encoder.check_conv_output_lengths,
        "wav2vec2:valid_frames": checks_encoder.check_valid_frames,
        "wav2vec2:zero_padding": checks_encoder.check_zero_padding,
    },
    hints=(
        "How often does a window of `kernel` samples fit if it moves by `stride`? Draw 10 "
        "samples, a kernel of 4 and a stride of 2.",
        "The first window takes `kernel` samples; each further one takes `stride` more. Padding "
        "adds samples on both sides before that.",
        "Compare torch.arange(total), shape (T,), with lengths[:, None], shape (B, 1): that "
        "broadcasts to (B, T). x.masked_fill(~valid[..., None], 0.0) leaves x itself as it was.",
    ),
    laws={},
)

CONV_BLOCK = Exercise(
    name="ex03_conv_block",
    lesson="02_encoder_step_by_step",
    minutes=45,
    difficulty=2,
    title="conv block",
    task="""\
        The feature encoder turns samples into frames by several layers of convolution, norm and
        activation. wav2vec2-base normalises each channel over time (`masked_group_norm`, after
        the first convolution only), the large models each frame over its channels (after every
        convolution). Padding must not enter any statistics, even if it is NaN; the variance is
        divided by the number of real frames. `lengths` is None if nothing is padded. What you
        return in padded frames is free.

        A ConvLayer has `self.conv`, `self.norm` (call it with x and the lengths after the
        convolution; None in some layers) and `self.activation`. The FeatureEncoder has
        `self.conv_layers` (call each with x and the lengths) and `self.min_samples`. It sets the
        padding of x to zero, even if it is NaN. Shorter clips are padded with zeros to
        min_samples, and items that are shorter count as min_samples long.

        The layout changes on the way: the waveforms are (B, L), the convolutions need (B, C, T),
        with C = 1 at first, and the frames that FeatureEncoder returns are (B, T, C).""",
    imports=TORCH
    + "\nfrom nanos2t.wav2vec2 import conv_output_lengths, valid_frames, zero_padding\n",
    checks={
        "wav2vec2:masked_group_norm": checks_encoder.check_masked_group_norm,
        "wav2vec2:ConvLayer.forward": checks_encoder.check_conv_layer,
        "wav2vec2:FeatureEncoder.forward": checks_encoder.check_feature_encoder,
    },
    hints=(
        "The mean over the real frames is their sum divided by their number: multiply by the "
        "mask, sum over time, divide by `lengths`. For the variance do the same with the squares, "
        "masked again.",
        "The order in a layer is convolution, norm (if the layer has one), activation. The "
        "convolution also makes the lengths smaller.",
        "A waveform (B, L) enters Conv1d as (B, 1, L). Set the padding of each item to zero "
        "first: an item shorter than one frame counts as min_samples long, zeros included. The "
        "result is (B, T, C).",
    ),
    laws={
        "wav2vec2:masked_group_norm": (checks_encoder.group_norm_ignores_padding, PADDING_LEAKS),
        "wav2vec2:FeatureEncoder.forward": (
            checks_encoder.feature_encoder_ignores_padding,
            PADDING_LEAKS,
        ),
    },
)

POSITIONAL_CONV = Exercise(
    name="ex04_positional_conv",
    lesson="02_encoder_step_by_step",
    minutes=30,
    difficulty=2,
    title="positional convolution",
    task="""\
        Attention does not know the order of its frames. Wav2Vec2 adds it with one wide
        convolution, whose result is added to the frames (by the caller, after a GELU). Weight
        norm stores the weight of this convolution in two parts: a direction (H, H / groups, K)
        and a gain (1, 1, K) for each of the K taps. The official kernel has an even size, 128:
        it has no middle, so the right side lacks one frame: of K // 2 zeros on both sides, the last
        frame of the result is dropped. An odd kernel drops none. GELU and the sum with x are the
        caller's.""",
    imports=TORCH,
    checks={"wav2vec2:position_conv": checks_encoder.check_position_conv},
    hints=(
        "Weight norm: scale each tap of `direction` to length 1, then multiply it by its gain. A "
        "tap is a matrix (H, H / groups): its length is taken over both dimensions.",
        "F.conv1d needs (B, H, T). Pad K // 2 on both sides; for an even K that makes one frame "
        "too many.",
        "direction.norm(dim=(0, 1), keepdim=True) has the shape of the gain. If there is one "
        "frame too many, drop the last one, not the first.",
    ),
    laws={},
)

ATTENTION = Exercise(
    name="ex05_attention",
    lesson="03_attention_by_hand",
    minutes=45,
    difficulty=2,
    title="attention",
    task="""\
        softmax(Q K^T / sqrt(D)) V, in N heads. `split_heads` cuts the width H into N heads of
        size D, `attention_weights` is the softmax, `attend` the whole formula, and `forward`
        makes the queries, attends and merges the heads.

        A mask is bool here, True where a query may look, and broadcasts to (B, N, T, S). (The
        package's `attend` also takes numbers to add; yours need not.) With `is_causal` (there is no
        mask then, and T = S) token t sees the tokens 0 to t. `dropout` is 0 here; you may use
        F.dropout.

        The module has `self.q_proj`, `self.out_proj`, `self.num_heads`, `self.dropout` (for what
        `forward` returns), and `self.attention_dropout` (a number, for training only: you may
        leave it out).""",
    imports="import math\n\n" + TORCH,
    checks={
        "wav2vec2:Attention.split_heads": checks_encoder.check_split_heads,
        "wav2vec2:attention_weights": checks_encoder.check_attention_weights,
        "wav2vec2:attend": checks_encoder.check_attend,
        "wav2vec2:Attention.forward": checks_encoder.check_attention,
    },
    hints=(
        "Head n has the columns n * D to (n + 1) * D - 1 of every frame. So cut the width first, "
        "to (B, T, N, D), and only then exchange T and N.",
        "The scores are a matrix product with the last two dimensions of the keys exchanged, "
        "divided by the square root of D, the size of ONE head. Put -inf into the scores before "
        "the softmax, not after it.",
        "Merging is the reverse of splitting: transpose(1, 2) makes (B, T, N, D) of (B, N, T, D), "
        "and flatten(2) puts the heads side by side. Then comes out_proj.",
    ),
    laws={
        "wav2vec2:attention_weights": (
            checks_encoder.weights_sum_to_one,
            "the rows do not sum to 1",
        ),
        "wav2vec2:attend": (
            checks_encoder.attend_is_causal,
            "later tokens change earlier ones although is_causal is True",
        ),
    },
)

ENCODER_LAYER = Exercise(
    name="ex06_encoder_layer",
    lesson="02_encoder_step_by_step",
    minutes=20,
    difficulty=1,
    title="encoder layer",
    task="""\
        Attention, then the MLP, each with a residual connection and a norm. wav2vec2-base
        normalises the sum (`pre_norm` is False), the large models normalise the input of each
        part (`pre_norm` is True). Keys and values are made of the same tensor as the queries:
        `self.self_attn.project_keys_values(source)` makes both, and `self.self_attn(x, keys,
        values, mask)` attends.

        The module has `self.pre_norm`, `self.self_attn`, `self.self_attn_norm`, `self.mlp` and
        `self.mlp_norm`.""",
    imports=TORCH,
    checks={"wav2vec2:Block.forward": checks_encoder.check_encoder_block},
    hints=(
        "Post-norm: x = norm(x + f(x)), twice. Pre-norm: x = x + f(norm(x)), twice.",
        "In the pre-norm block the residual is the x that was NOT normalised.",
        "Queries, keys and values all come from the same tensor: in the pre-norm block, the "
        "normalised one.",
    ),
    laws={
        "wav2vec2:Block.forward": (checks_encoder.encoder_block_ignores_padding, PADDING_LEAKS),
    },
)

EMBEDDINGS = Exercise(
    name="ex07_embeddings",
    lesson="04_tokens",
    minutes=20,
    difficulty=1,
    title="decoder embeddings",
    task="""\
        The input of the decoder's first block is the token embedding, plus the position, plus
        (in BERT) the token type, and then a norm, and dropout. One class serves all families, so
        each part may have no effect: `embed_scale` may be 1, `position_offset` 0, `token_types`
        None, `norm` an identity. The cache already has `past` tokens, so the new ones do not start
        at position 0. The first type, row 0, is that of all tokens. More tokens, with the past
        ones, than `self.config.max_positions` are a ValueError.

        The module has `self.tokens`, `self.positions`, `self.token_types` (embeddings; the last
        one may be None), `self.norm`, `self.dropout`, `self.config.embed_scale` (for the tokens
        only) and `self.config.position_offset`.""",
    imports=TORCH,
    checks={"decoder:Embedding.forward": checks_decoder.check_embedding},
    hints=(
        "The positions of T new tokens are past, past + 1, ... past + T - 1, each plus the offset.",
        "Only the token embedding is multiplied by embed_scale, before the rest is added.",
        "All tokens have the first type: row 0 of token_types.weight. The norm comes after the "
        "sum.",
    ),
    laws={},
)

CAUSAL_MASK = Exercise(
    name="ex08_causal_mask",
    lesson="05_one_block_four_decoders",
    minutes=15,
    difficulty=1,
    title="causal mask",
    task="""\
        In training the decoder reads all tokens at once, and must not see the token that it has
        to predict. True means that a token may look there. With a cache there are also
        `past_length` tokens before the T new ones. The mask is bool, and on `device`.""",
    imports=TORCH,
    checks={"decoder:causal_mask": checks_decoder.check_causal_mask},
    hints=(
        "Write the mask for 3 new and 2 past tokens on paper: 3 rows (who looks), 5 columns (at "
        "whom).",
        "New token t is at position past + t. It sees columns 0 to past + t, itself included.",
        "torch.ones(...).tril(k) keeps what is on or below the diagonal k: which k lets row 0 see "
        "past + 1 columns?",
    ),
    laws={},
)

CROSS_ATTENTION = Exercise(
    name="ex09_cross_attention",
    lesson="05_one_block_four_decoders",
    minutes=30,
    difficulty=2,
    title="cross-attention",
    task="""\
        Here the text looks at the sound. `cross_keys_values` is a pair of keys and values that
        were made of the encoder's frames once, (B, N, S, D) each; the mask (B, 1, 1, S) says
        which frames are real. In a beam search x has B * K rows, the K beams of one utterance
        next to each other, and all of them look at the same keys and values. Copies of them for
        each beam are right as well, only slower.

        Then write the whole decoder block: self-attention, cross-attention and MLP, each with a
        residual connection and a norm.

        The module has `self.cross_attn(x, keys, values, mask)`; `self.attend_tokens(x, cache)`,
        the causal self-attention; `self.attend_memory(x, cross_keys_values, memory_mask)`,
        which you write; `self.mlp`; `self.self_attn_norm`, `self.cross_attn_norm`,
        `self.mlp_norm`; and `self.pre_norm`: with it the input of each part is normalised, as in
        GPT-2, without it each sum, as in BERT (see exercise 6).""",
    imports=TORCH + "\nfrom nanos2t.decoder import KVCache\n",
    checks={
        "decoder:Block.attend_memory": checks_decoder.check_attend_memory,
        "decoder:Block.forward": checks_decoder.check_decoder_block,
    },
    hints=(
        "Cross-attention needs no causal mask: the whole recording is there before the first "
        "token.",
        "The rows of x and of the keys must agree. Either repeat keys, values and mask K times "
        "(repeat_interleave), or put the beams of an utterance side by side: x as (B, K * T, H).",
        "The order is self-attention, cross-attention, MLP. Residuals and norms are as in "
        "exercise 6, with three sublayers now; attend_memory itself adds no residual.",
    ),
    laws={
        "decoder:Block.attend_memory": (
            checks_decoder.attend_memory_ignores_padding,
            "the padding of the memory changes the result",
        ),
        "decoder:Block.forward": (
            checks_decoder.decoder_block_is_causal,
            "later tokens change the result at earlier ones",
        ),
    },
)

SHIFT_AND_LOSS = Exercise(
    name="ex10_shift_and_loss",
    lesson="06_loss",
    minutes=25,
    difficulty=1,
    title="shift-right and loss",
    task="""\
        In training the decoder reads the right text, shifted by one position, and has to
        predict the next token at each position. Labels that do not count, such as those in the
        padding, are IGNORED, -100: the loss skips them, even if the logits there are NaN (the
        gradient there may then be NaN), and no embedding has such a row. Every other label
        counts, 0 too. The decoder's input has the labels' type, whole numbers.

        The loss is one mean over the labels of the whole batch, and logits of 1000 are no
        problem for it. If all labels are IGNORED it is 0, and its gradient is 0: it must have
        one, or training stops with an error.""",
    imports=TORCH + "\nfrom nanos2t.model import IGNORED\n",
    checks={
        "model:shift_right": checks_decoder.check_shift_right,
        "model:cross_entropy": checks_decoder.check_cross_entropy,
    },
    hints=(
        "The labels 5 6 7 2 with start token 1 are read as 1 5 6 7. The last label is predicted, "
        "never read.",
        "The loss is one mean over all labels of the batch that count, so long texts weigh more.",
        "F.cross_entropy takes ignore_index and reduction='sum'. Divide by the number of labels "
        "that count, or by 1 if there are none: the loss is then 0, not NaN.",
    ),
    laws={},
)

GREEDY = Exercise(
    name="ex11_greedy",
    lesson="07_greedy_to_beam",
    minutes=60,
    difficulty=3,
    title="cached greedy",
    task="""\
        The simplest search: append the most likely token, again and again. Keys and values of
        past tokens do not change. A cache keeps them, so that each step computes those of one
        new token only.

        `KVCache.append` stores the keys and values of new tokens after the `self.length` tokens
        stored before, in the buffers `self.keys` and `self.values` (B, N, size, D), raises
        `self.length`, and returns everything stored, as views of the buffers, not copies.

        `DecoderSession` is called with all tokens so far, and gives the decoder those that the
        caches lack: `self.decoder(new_tokens, self.cross_keys_values, self.memory_mask,
        self.caches)` returns logits (R, T, V), and appends the new tokens to the caches.
        `self.caches` is a list with one KVCache for each block: the `.length` of each is the
        number of tokens that it has, so that of the first cache, `self.caches[0].length`, says
        which tokens are new. If `parent_rows` is not None, rows have changed places, and there
        may be fewer than before, because an utterance whose search is over leaves the batch: its
        rows are not in `parent_rows`. Then `.reorder(parent_rows)` of each cache comes first,
        and `self.keep_utterances(parent_rows)` (given), which takes its keys, values and mask out
        of the memory. The result are the logits of the last token, (R, V).

        `greedy_search` calls `next_logits(tokens, None)` for logits (R, V), and applies
        `process_logits(logits, tokens, config)` (given), which forbids tokens, before
        log_softmax. It stops at `config.max_total_length` tokens, the start token included, or
        when each row has a token of `config.eos_ids`, a list. After its EOS, a row gets pads,
        whose log-probability is 0: `config.pad_token_id`, or the first EOS id if that is None.
        They add nothing to its length. (Without an EOS id no row ends, and no pad is needed.)

        The result is `Generated(sequences, sequences_scores, token_logprobs)`: the tokens (R, T)
        with the start token first, the score of each row (R,), and the log-probability of each
        token but the start token (R, T - 1).

        The score of a row is the sum of its log-probabilities / length **
        config.length_penalty; the length counts EOS, but not the start token. Sampling
        (config.do_sample), `trace` (for pictures), numbers of another type than float32, and
        errors about logits that are not finite are not part of this exercise.""",
    imports=TORCH
    + "\nfrom nanos2t.generate import Generated, NextLogits\n"
    + "from nanos2t.generation_config import GenerationConfig\n"
    + "from nanos2t.logits_processing import process_logits\n"
    + "from nanos2t.search_trace import Candidate\n",
    checks={
        "decoder:KVCache.append": checks_search.check_cache_append,
        "generate:DecoderSession.__call__": checks_search.check_decoder_session,
        "generate:greedy_search": checks_search.check_greedy_search,
    },
    hints=(
        "append: the new ones go to places length to length + T - 1; then length grows, then "
        "slice.",
        "DecoderSession: tokens[:, self.caches[0].length:] are new. Return the logits of the last "
        "one.",
        "greedy_search: keep `ended`, a bool for each row. A row that has ended gets "
        "config.pad_token_id, and adds 0 to its sum and to its length. Set `ended` after the EOS "
        "is counted.",
    ),
    laws={},
)

BEAM_SEARCH = Exercise(
    name="ex12_beam_search",
    lesson="07_greedy_to_beam",
    minutes=90,
    difficulty=3,
    title="beam search",
    task="""\
        Keep the K best beginnings instead of one.

        `KVCache.reorder` moves rows of the cache: row i becomes what row rows[i] was. There may
        be fewer rows than before: then the buffers `self.keys` and `self.values` have fewer. They
        keep their room for later tokens.

        `best_continuations` continues each beam of an utterance by each possible token. It
        returns the best C = 2 K of the K * V results, best first, as Beams (B, C), and the
        beams that they continue, their parents (B, C), numbers from 0 to K - 1. There are 2 K of
        them so that K can run on even if K end. (With several EOS ids, C is 1 + their number,
        times K. V is so large that there are as many, and the order of equal ones is free.) It
        takes log_softmax of the logits, and applies `process_logits(logprobs,
        tokens, config)` (given) to the result, with the tokens (B * K, T). The Beams have
        `.tokens` (B, C, T + 1); `.logprobs` (B, C, T), of each token; `.scores` (B, C), the sum
        of all log-probabilities, not divided; and `.ended` (B, C), True after a token of
        `config.eos_ids`, and for all candidates with `config.max_total_length` tokens.

        `beam_search` repeats four steps:
        STEP 1: find the best continuations, the candidates.
        STEP 2: the K best candidates that have not ended run on. `next_logits(tokens,
        parent_rows)` is told which of the R = B * K rows of the previous call each row
        continues.
        STEP 3: those of the first K candidates that have ended compete for K places, by their
        sum / length ** length_penalty. The length counts EOS, but not the start token.
        STEP 4: an utterance is closed for good when it has K finished hypotheses, and its best
        running beam, scored with its present length, is no better than the worst of them: it
        collects no more, while the others go on. With early_stopping True, an utterance is
        closed as soon as K have finished. Stop when all are closed. Stop also when all
        candidates end, at config.max_total_length.

        The result is `Generated` as in exercise 11: the `config.num_return_sequences` best
        hypotheses of each utterance, best first, those of one utterance together. It is trimmed:
        as long as the longest of them. After the end of a hypothesis come pads (the first EOS,
        if the pad id is 0 or None), with log-probability 0. (Exercise 11 gives process_logits
        the logits, and pads with 0 if that is the id: the searches of transformers differ so.)

        You may go on with all B * K rows to the end. Rows of an utterance that is closed may also
        leave, all K of them at once, as in the package. Sampling, early_stopping="never" and
        `trace` are not part of this exercise.

        Given: Beams with `select`, `append`, `pad`, `merge`; `initial_beams(start, K)`, which
        returns the running beams (all are the same, so only the first one counts) and K empty
        places; IMPOSSIBLE. `python -m pydoc nanos2t.beams.Beams` shows what they say, and no
        code.""",
    imports=TORCH
    + "\nfrom nanos2t.beams import IMPOSSIBLE, Beams, initial_beams\n"
    + "from nanos2t.decoder import KVCache\n"
    + "from nanos2t.generate import Generated, NextLogits\n"
    + "from nanos2t.generation_config import GenerationConfig\n"
    + "from nanos2t.logits_processing import process_logits\n"
    + "from nanos2t.search_trace import Candidate\n",
    checks={
        "decoder:KVCache.reorder": checks_search.check_cache_reorder,
        "generate:best_continuations": checks_search.check_best_continuations,
        "generate:beam_search": checks_search.check_beam_search,
    },
    hints=(
        "best_continuations: take log_softmax of the logits, add the score of the beam, and take "
        "topk over all beams and tokens at once: index i of K * V is beam i // V with token i % "
        "V.",
        "beam_search: write it for one utterance with Python lists of (score, tokens) first. A "
        "candidate that has ended does not run on, and only its score is divided by the length.",
        "Row numbers: beam k of utterance b is row b * K + k. parent_rows is None in the first "
        "call only. A candidate that has ended but is not among the first K is dropped.",
    ),
    laws={},
)

ALIGNMENT = Exercise(
    name="ex13_alignment",
    lesson="08_alignment",
    minutes=40,
    difficulty=2,
    title="bonus: alignment by dynamic time warping",
    task="""\
        When was each word said? The cross-attention tells, but not sharply. Dynamic time
        warping finds the cheapest path through a table cost (T tokens, S frames), from the
        first token and frame to the last of both, that never goes back. There is at least one
        token and one frame, there may be thousands of frames, and a cost may be negative. The
        path's cost is the sum of its cells, each counted once. Of the ways that do not win a tie
        (see below) either may be taken. The result lists all its cells in order, as rows (token,
        frame) of whole numbers.""",
    imports="import numpy as np\n",
    checks={"transcription.alignment:dtw": checks_weights.check_dtw},
    hints=(
        "Fill a table: the cheapest way to cell (t, s) is its own cost plus the cheapest of the "
        "ways to the three cells before it: (t - 1, s - 1), (t - 1, s), (t, s - 1).",
        "A border of infinity around the table, with 0 at its corner, saves the special cases.",
        "Find the path backwards: from the last cell, always go to the cheapest of the three "
        "before it (the diagonal one if they are equal). Then reverse it.",
    ),
    laws={},
)

WEIGHT_MAP = Exercise(
    name="ex14_weight_map",
    lesson="09_loading_weights",
    minutes=60,
    difficulty=3,
    title="weight mapping",
    task="""\
        A checkpoint has the same tensors under other names, some of them fused or transposed. A
        table says which is which, by rows (ours, theirs, flags).

        `unfuse` splits one tensor of theirs into the one or several of ours that it holds, in
        this order, and returns a tuple, also if it is one. They need not be equally high. If
        `row.is_transposed`, a matrix is stored as (in, out), ours as (out, in) (a bias has one
        dimension and stays as it is). Another shape is a ValueError, and so are whole numbers:
        weights are floats. The message begins with `where`, the file and the tensor.

        `import_state` fills all tensors of ours, without copies (by views of theirs), or raises
        a ValueError that names the file (`where`) and the tensor: nothing else is skipped
        silently, and one of ours that no row covers is missing. `theirs` stays as it is. A row may
        be at most one of `row.is_alias` (a second name: it must be equal if both are there, and
        fills in if the first is missing), `row.is_legacy` (an older name; with the new one there,
        too, it is an error, even if they are equal), `row.is_optional` (may be absent from theirs,
        and then from the result, or from ours, and then it is skipped) or `row.is_dropped` (theirs
        only). The flags `fallback` and `override` are not part of this exercise.

        Given: `match_rows(rows, ours)` yields (our names, their name, row) for each tensor,
        aliases last; `compile_pattern(row.theirs).fullmatch(name)` tells whether a row covers a
        name of theirs; `shorten(names)` lists names; `fuse(tensors, row)` is the reverse of
        `unfuse`, and on the meta device gives the shape to expect. They are in the file of the
        answer: `python -m pydoc nanos2t.remap.match_rows` shows what one says, and no code.""",
    imports="from collections.abc import Mapping\n\n"
    "import torch\nfrom torch import Tensor, equal\n\n"
    "from nanos2t.remap import TensorRow, compile_pattern, fuse, match_rows\n"
    "from nanos2t.remap_config import shorten\n",
    checks={
        "remap:unfuse": checks_weights.check_unfuse,
        "remap:import_state": checks_weights.check_import_state,
    },
    hints=(
        "unfuse: check the shape first. Transpose, then cut along the rows: value.split([4, 4, "
        "4]).",
        "import_state: at the end two lists decide whether there is an error: tensors of ours "
        "that nothing filled, and tensors of theirs that nothing read.",
        "Missing are tensors that a row without alias, legacy and optional should have filled. "
        "Unknown are tensors that were not read and that no row with drop or optional covers.",
    ),
    laws={},
)

# Exercises with a file of their own beside this one: its name, such as "ex15_ngrams". It defines
# EXERCISE; tutorials/teaching.md shows how.
OWN_FILES: tuple[str, ...] = ()

EXERCISES = (
    NORMALISATION,
    FRAMES,
    CONV_BLOCK,
    POSITIONAL_CONV,
    ATTENTION,
    ENCODER_LAYER,
    EMBEDDINGS,
    CAUSAL_MASK,
    CROSS_ATTENTION,
    SHIFT_AND_LOSS,
    GREEDY,
    BEAM_SEARCH,
    ALIGNMENT,
    WEIGHT_MAP,
    *(import_module(f"exercises.{name}").EXERCISE for name in OWN_FILES),
)


def select_exercises(words: list[str]) -> list[Exercise]:
    """Return exercises by number, id or a part of the name; all of them for no words.

    ValueError: no exercise, or more than one, fits a word.
    """
    if not words:
        return list(EXERCISES)
    return [select_exercise(word) for word in words]


def select_exercise(word: str) -> Exercise:
    number = re.fullmatch(r"(?:ex)?0*(\d+)", word)
    if number:
        matches = [exercise for exercise in EXERCISES if exercise.number == int(number[1])]
    else:
        # A whole name, such as "attention", is preferred to a part of one, as in "cross_attention".
        name = re.sub(r"[\s-]+", "_", word.lower())
        matches = [exercise for exercise in EXERCISES if exercise.name[5:] == name]
        if not matches:
            matches = [exercise for exercise in EXERCISES if name in exercise.name]

    if len(matches) == 1:
        return matches[0]
    names = " and ".join(exercise.name for exercise in matches)
    hint = f", of which {names} fit" if matches else ""
    raise ValueError(f"{word!r}: expected an exercise, 1 to {len(EXERCISES)}, or its name{hint}")
