# %% [markdown]
# # 4. One block, four decoders
#
# The encoder gave 82 vectors, the *memory*. The decoder writes text from it, one token after the
# other: it reads what it has written so far, looks into the memory, and says how likely each token
# of its vocabulary is to come next.
#
# BERT, GPT-2, BART and mBART are four famous names. As decoders they are one and the same block
# with a few knobs, and nanos2t has just one `decoder.Block`. This lesson finds the differences, and
# then what all four have in common.

# %%
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nanos2t
from nanos2t import DecoderConfig, SpeechEncoderDecoder
from nanos2t.model import IGNORED, cross_entropy, shift_right

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREEN = "#4f8a4c"
RED = "#b23a48"
GREY = "0.6"
torch.set_grad_enabled(False)

stt = nanos2t.load()
waveform = stt.load_audio(Path(nanos2t.__file__).parent / "assets" / "sample.wav")
values, _ = stt.prepare([waveform])
memory, _ = stt.model.encode(values)  # (1, 82, 192)

# %% [markdown]
# ## The knobs
#
# A family is a preset of `DecoderConfig`. Print only what is not the same for all four:

# %%
size = {
    "hidden_size": 192,
    "num_layers": 2,
    "num_heads": 6,
    "intermediate_size": 768,
    "max_positions": 64,
}
configs = {
    name: getattr(DecoderConfig, name)(320, **size) for name in ("bert", "gpt2", "bart", "mbart")
}
print(f"{'':<18}", *(f"{name:<10}" for name in configs))
for field in fields(DecoderConfig):
    found = [getattr(config, field.name) for config in configs.values()]
    if len(set(found)) > 1:
        print(
            f"{field.name:<18}",
            *(f"{x:<10.4g}" if type(x) is float else f"{x!s:<10}" for x in found),
        )
assert [config.pre_norm for config in configs.values()] == [False, True, False, True]

# %% [markdown]
# The largest of them is `pre_norm`. A block does three things: it looks at the tokens so far, it
# looks into the memory, and it thinks about each token alone. Each is *added* to what is there. The
# question is where the norms go:
#
#     BERT, BART    x = norm(x + look at the past(x))           after the sum: "post-norm"
#                   x = norm(x + look into the memory(x))
#                   x = norm(x + think(x))
#
#     GPT-2, mBART  x = x + look at the past(norm(x))           before the work: "pre-norm"
#                   x = x + look into the memory(norm(x))
#                   x = x + think(norm(x))
#
# That changes what flows from block to block. After a post-norm every vector has the same size; in
# a pre-norm stack nothing ever makes it smaller, so it may grow with each block, and one last norm
# is needed at the end. Here are stacks of 12 random blocks:

# %%
torch.manual_seed(0)
deep = {**size, "num_layers": 12, "init_std": 0.08}
tokens = torch.randint(13, 320, (1, 12))
figure, axis = plt.subplots(figsize=(7, 3.2))
for name, colour, style in zip(configs, (BLUE, ORANGE, GREEN, RED), ("-", "-", "--", "--")):
    config = getattr(DecoderConfig, name)(320, **deep)
    stack = SpeechEncoderDecoder.from_configs(stt.model.encoder.config, config).decoder.eval()
    x = stack.embed(tokens, 0)
    sizes = []
    for block, read in zip(stack.blocks, stack.project_memory(memory)):
        x = block(x, read, None, None)
        sizes.append(float(x.norm(dim=2).mean()))
    axis.plot(range(1, 13), sizes, style, color=colour, label=name, lw=2)
    assert (sizes[-1] > 2 * sizes[0]) == config.pre_norm
    assert config.pre_norm or abs(sizes[-1] - 192**0.5) < 0.1
axis.set(
    title="size of a vector after each of 12 blocks",
    xlabel="block",
    ylabel="length",
    ylim=(0, None),
)
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The other knobs are in the embedding and the head. BERT adds a vector for "first sentence"
# (`num_token_types`), and has a small network before its output matrix (`mlm_head`). BART's table
# of positions starts with two rows that nobody uses (`position_offset`): position 0 is row 2. mBART
# multiplies its embeddings by sqrt(192) (`embed_scale`). Forget one of these, and nothing fails,
# but the text is wrong.
#
# ## What all have in common: no look ahead
#
# In training the whole text is there, and all positions are computed at once. So no token may see
# the next one, which is the one it has to predict. The proof is to change one token and see which
# positions notice. The row is the position, the column is the token that was changed; white means
# the same numbers, but for rounding.


# %%
def notice(run):
    """How much each position (row) changes when each token (column) is another: (12, 12)."""
    before = run(tokens)
    changes = []
    for t in range(12):
        other = tokens.clone()
        other[0, t] = (other[0, t] + 100) % 320
        changes.append((run(other) - before).abs().amax(2)[0])
    return torch.stack(changes, 1).numpy()


def without_mask(stack, tokens):
    """Decoder.forward with a self-attention that sees everything: the mistake to look for."""
    x = stack.embed(tokens, 0)
    for block, read in zip(stack.blocks, stack.project_memory(memory)):
        x = block.self_attn_norm(x + block.self_attn(x, *block.self_attn.project_keys_values(x)))
        x = block.cross_attn_norm(x + block.attend_memory(x, read, None))
        x = block.mlp_norm(x + block.mlp(x))
    return stack.head(stack.norm(x), stack.embed.tokens.weight)


stacks = {}
maps = {}
for name, config in configs.items():
    stack = SpeechEncoderDecoder.from_configs(stt.model.encoder.config, config).decoder.eval()
    stacks[name] = stack
    maps[name] = notice(lambda x, stack=stack: stack(x, stack.project_memory(memory)))
maps["bert, no mask"] = notice(lambda x: without_mask(stacks["bert"], x))

figure, axes = plt.subplots(1, 5, figsize=(10, 2.6), sharey=True)
for axis, (name, change) in zip(axes, maps.items()):
    shown = np.log10(np.where(change < 1e-5 * change.max(), np.nan, change / change.max()))
    picture = axis.imshow(shown, cmap="YlGnBu", vmin=-4, vmax=0)
    axis.set(title=name, xlabel="token changed", xticks=[], yticks=[])
axes[0].set(ylabel="position")
figure.colorbar(picture, ax=axes, shrink=0.8, label="change, log10")
plt.show()
for name, change in maps.items():
    ahead = np.triu(change, 1)
    assert (ahead.max() > 1e-3 * change.max()) == (name == "bert, no mask"), name
    assert name == "bert, no mask" or ahead.max() < 1e-5 * change.max(), name
    assert (change.diagonal() > 0).all() and (change[-1] > 0).all()

# %% [markdown]
# Why not just train without the mask and see that the loss is suspiciously good? Because the loss
# *is* good, and the model useless: it copies the answer in training, and there is none to copy when
# it writes.
#
# The same fact allows a short cut. If the past never changes, then the keys and values of the past
# never change either: keep them (`decoder.KVCache`) and compute one new token at a time. All at
# once or one by one must be the same numbers:

# %%
for stack in stacks.values():
    at_once = stack(tokens, stack.project_memory(memory))
    read = stack.project_memory(memory)
    cache = stack.new_caches(rows=1, size=12)
    one_by_one = torch.cat([stack(tokens[:, t : t + 1], read, None, cache) for t in range(12)], 1)
    assert (at_once - one_by_one).abs().max() < 1e-4
    assert cache[0].keys.shape == (1, 6, 12, 32)

# %% [markdown]
# ## Labels, and the same labels one place later
#
# To train, we need at each position what *was* written and what *should* come next. The second are
# the labels; the first are the labels moved right by one, with a start token in front
# (`shift_right`). The loss is the mean of -log p(label). Where a label is `IGNORED` (-100: padding,
# or a token that is given anyway) it does not count.

# %%
start = stt.model.generation.decoder_start_token_id
pad = stt.model.generation.pad_token_id
language = stt.model.generation.lang_to_id["verbatim"]
labels = torch.tensor([[language, *stt.tokenizer.encode("two four seven"), IGNORED, IGNORED]])
inputs = shift_right(labels, start, pad)
print("labels", labels[0].tolist())
print("input ", inputs[0].tolist())
assert inputs[0].tolist() == [start, *labels[0, :5].tolist(), pad]

out = stt.model(values, labels=labels, decoder_input_ids=inputs)
logprobs = out.logits.log_softmax(2)
given = labels[0, :5]
by_hand = -logprobs[0, range(5), given].mean()
assert torch.allclose(out.loss, by_hand) and torch.allclose(
    cross_entropy(out.logits, labels), by_hand
)
print(
    "per label:",
    [round(float(-x), 2) for x in logprobs[0, range(5), given]],
    "mean:",
    round(float(out.loss), 3),
)

# %% [markdown]
# One label is expensive: the first, the language. Nothing in the sound reveals it, so it is given,
# not guessed. The rest costs almost nothing: the model is sure.
#
# ## Tell it a lie
#
# Feeding the right text, whatever the model would have written, is called teacher forcing. What if
# the teacher is wrong? We feed "two five seven". Each column is a position; the label below it is
# what the decoder has just been told.


# %%
def believes(text):
    """Feed a text -> the tokens fed, and the probabilities of the next one, (T, 320)."""
    fed = torch.tensor([[start, language, *stt.tokenizer.encode(text)[:-1]]])
    return fed[0], stt.model(values, decoder_input_ids=fed).logits[0].softmax(1)


def name_of(token):
    return stt.tokenizer.decode([int(token)], skip_special_tokens=False)


shown = [*stt.tokenizer.encode("two four five seven nine")]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for axis, text in zip(axes, ("two four seven", "two five seven")):
    fed, p = believes(text)
    axis.imshow(p[1:, shown].T, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for t, s in np.ndindex(len(fed) - 1, len(shown)):
        if p[t + 1, shown[s]] > 0.005:
            colour = "white" if p[t + 1, shown[s]] > 0.5 else "black"
            axis.text(t, s, f"{p[t + 1, shown[s]]:.2f}", ha="center", va="center", color=colour)
    axis.set(
        xticks=range(len(fed) - 1), xticklabels=map(name_of, fed[1:]), xlabel="it was just told"
    )
    axis.set(yticks=range(len(shown)), yticklabels=map(name_of, shown), title=f'told "{text}"')
axes[0].set(ylabel="it expects next")
plt.show()

four, five, seven = (stt.tokenizer.encode(word)[0] for word in ("four", "five", "seven"))
fed, p = believes("two five seven")
assert p[2, four] > 0.9 and p[2, five] < 0.05  # it heard "four", whatever the teacher said
assert p[3, seven] > 0.9  # and goes on where the sound goes on

# %% [markdown]
# It is not misled: after the lie it expects "seven" as surely as after the truth. A decoder that
# learned more about the language than about listening would go astray here; models that translate
# text often do.
#
# ## Try
#
# 1. Feed "two" twice, or leave out "four". Does it continue with what comes next in the sound, or
#    with what is missing?
# 2. Give the decoder the memory of silence (`torch.zeros`) and read its beliefs: that is what it
#    knows of numbers alone.
# 3. Compute the loss of "two four seven" for each of the nine languages. Which label makes the
#    difference?
#
# ## Now write it
#
#     nanos2t exercises 7    # the decoder's embeddings: 20 minutes, *
#     nanos2t exercises 8    # the causal mask: 15 minutes, *
#     nanos2t exercises 9    # cross-attention: 30 minutes, **
