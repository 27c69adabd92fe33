# %% [markdown]
# # 5. One block, four decoders
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
    choices = [getattr(config, field.name) for config in configs.values()]
    if len(set(choices)) > 1:
        row = [f"{x:.4g}" if type(x) is float else str(x) for x in choices]
        print(f"{field.name:<18}", *(f"{text:<10}" for text in row))
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
axis.legend(frameon=False, loc="upper left")
# Picture: lengths of vectors over twelve blocks: flat for BERT and BART, rising for GPT-2 and
# mBART
plt.show()

# %% [markdown]
# *What to look at: the two flat lines lie on each other, at the square root of 192, and the two
# others rise without an end.*
#
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
    share = change / change.max()
    share[share < 1e-5] = np.nan  # rounding stays white
    picture = axis.imshow(np.log10(share), cmap="YlGnBu", vmin=-4, vmax=0)
    axis.set(title=name, xlabel="token changed", xticks=[], yticks=[])
axes[0].set(ylabel="position")
figure.colorbar(picture, ax=axes, shrink=0.8, label="change, log10")
# Picture: five squares: four are empty above the diagonal, the fifth, without a mask, is filled
plt.show()
for name, change in maps.items():
    ahead = np.triu(change, 1)
    assert (ahead.max() > 1e-3 * change.max()) == (name == "bert, no mask"), name
    assert name == "bert, no mask" or ahead.max() < 1e-5 * change.max(), name
    assert (change.diagonal() > 0).all() and (change[-1] > 0).all()

# %% [markdown]
# *What to look at: the upper right triangle. In the fifth picture early positions notice later
# tokens: that must never happen.*
#
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
# ## Try
#
# 1. Give the bundled decoder a memory of zeros (`stt.model.generate_from_memory`). What does it
#    write, and how likely are its first words? That is what it knows of numbers alone.
# 2. Change one knob of the bundled decoder and load the same weights into it: `embed_scale` 2, a
#    `position_offset` of 1, `norm_eps` 0.1. Which of them still write the right text?
# 3. Draw the sizes again with an `init_std` of 0.02, as new models have it. What is left of the
#    growth?
#
# <details><summary>Answers</summary>
#
# 1. It writes nothing, and is not sure of that: the text ends at once with 0.18, the first word is
#    "six" with 0.13, "two" with 0.12, "three" with 0.11, nearly as if it threw a die. (In English
#    the end has 0.27, "six" 0.14.) So it knows that digits come, if anything, and not which.
# 2. All three write the right text, as it is spoken, in English and in German. A test that reads
#    one text passes all of these mistakes. Lesson 9 shows how to find them.
# 3. GPT-2's vectors begin at 0.4 and grow to 6.2, sixteenfold; mBART's only from 13.9 to 14.8,
#    since its embeddings are multiplied by sqrt(192) and normalised, and what a new block adds is
#    small beside them. A new model of this kind hardly does anything yet: it passes its input on.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 8    # the causal mask: 15 minutes, *
#     nanos2t exercises 9    # cross-attention: 30 minutes, **
