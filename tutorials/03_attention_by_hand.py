# %% [markdown]
# # 3. Attention by hand
#
# Attention is how a frame gets information from the others, and how the decoder gets it from the
# frames. It is a weighted mean, and the weights are computed on the spot. We do one on paper, then
# many at once, then forbid some of it, and at the end look at every head of the model at work on
# the recording.

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nanos2t
from nanos2t import decoder, wav2vec2

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREY = "0.6"
torch.set_grad_enabled(False)
torch.manual_seed(0)

# %% [markdown]
# ## On paper
#
# A *query* asks, *keys* answer, *values* are what is fetched. One query of four numbers, three
# keys, three values:
#
#     score[j]  = (query . key[j]) / sqrt(4)          how well does key j fit?
#     weight[j] = exp(score[j]) / sum of all exp      positive, and 1 in all: "softmax"
#     result    = sum of weight[j] * value[j]
#
# The keys below are chosen so that the scores are log 1, log 2 and log 3. Then the weights must be
# 1/6, 2/6 and 3/6: do it on paper before you run the cell.

# %%
query = torch.tensor([[2.0, 0, 0, 0]])
key = torch.tensor([[math.log(1), 5, 0, 0], [math.log(2), 0, 5, 0], [math.log(3), 0, 0, 5]])
value = torch.tensor([[6.0, 0], [0, 6.0], [6.0, 6.0]])

score = query @ key.T / math.sqrt(4)
weight = score.exp() / score.exp().sum()
result = weight @ value
print("weights", weight.tolist(), "result", result.tolist())
assert torch.allclose(weight, torch.tensor([[1 / 6, 2 / 6, 3 / 6]]))
assert torch.allclose(result, torch.tensor([[4.0, 5.0]]))

# %% [markdown]
# The package has two functions for this. `wav2vec2.attend` gives the result and is fast, but never
# shows its weights; `wav2vec2.attention_weights` computes just these, for pictures. Both take
# tensors of four dimensions: batch, heads, time, and the size of a head. There are as many results
# as queries, however many keys there are.

# %%
four = [x[None, None] for x in (query, key, value)]
assert torch.allclose(wav2vec2.attend(*four)[0, 0], result)
assert torch.allclose(wav2vec2.attention_weights(*four[:2])[0, 0], weight)

# %% [markdown]
# ## Why the square root
#
# The product of two random vectors of D numbers, each with standard deviation 1, has a standard
# deviation of sqrt(D).
# Without the division, scores would grow with the size of a head, and a softmax of large scores is
# no longer a mean: it picks one key and ignores the rest. The division keeps the weights soft,
# whatever D is.

# %%
sizes = 2 ** np.arange(0, 11)
largest = {"divided by sqrt(D)": [], "not divided": []}
for size in sizes:
    q = torch.randn(400, 1, int(size))
    k = torch.randn(400, 20, int(size))
    scores = (q @ k.transpose(1, 2))[:, 0]
    largest["divided by sqrt(D)"].append(float((scores / size**0.5).softmax(1).max(1)[0].mean()))
    largest["not divided"].append(float(scores.softmax(1).max(1)[0].mean()))

figure, axis = plt.subplots(figsize=(7, 3))
for (name, weights), colour in zip(largest.items(), (BLUE, ORANGE)):
    axis.plot(sizes, weights, "o-", color=colour, label=name)
axis.axhline(1 / 20, color=GREY, ls=":")
axis.text(1, 0.07, "all 20 keys alike", color=GREY)
axis.set(xscale="log", xlabel="D, size of a head", ylabel="largest of 20 weights", ylim=(0, 1))
axis.set(title="softmax without the square root picks one key", xticks=sizes, xticklabels=sizes)
axis.minorticks_off()
axis.legend(frameon=False, loc="upper left")
# Picture: two curves over the size of a head: with the root the largest weight stays near 0.2,
# without it rises to 1
plt.show()
assert largest["not divided"][-1] > 0.9 and max(largest["divided by sqrt(D)"]) < 0.3

# %% [markdown]
# *What to look at: the orange curve. At the size of real heads, 64, one key has most of the weight
# already.*
#
# ## Heads
#
# One mean is one opinion. So a vector of 192 numbers is cut into six of 32, each with its own
# attention, and the six results are put side by side again. `wav2vec2.Attention.split_heads` cuts,
# and `transpose(1, 2).flatten(2)` joins.
#
# The size under the root is that of a *head*, 32, not 192. And the cut must keep a frame together:
# first unflatten the 192 numbers of each frame, then swap the axes. Reshaping in one go has the
# right shape and mixes frames and heads.

# %%
stt = nanos2t.load()
waveform = stt.load_audio(Path(nanos2t.__file__).parent / "assets" / "sample.wav")
values, _ = stt.prepare([waveform])
encoder = stt.model.encoder
frames, _ = encoder.feature_encoder(values, None)
x = encoder.feature_projection(frames)
x = x + encoder.positions(x)  # (1, 82, 192)

block = encoder.blocks[0]
attention = block.self_attn
y = block.self_attn_norm(x)
projections = attention.q_proj, attention.k_proj, attention.v_proj
queries, keys, vectors = (
    project(y).unflatten(2, (6, 32)).transpose(1, 2) for project in projections
)
weights = (queries @ keys.transpose(2, 3) / math.sqrt(32)).softmax(3)  # (1, 6, 82, 82)
heads = weights @ vectors  # (1, 6, 82, 32)
by_hand = attention.out_proj(heads.transpose(1, 2).flatten(2))  # (1, 82, 192)
right = attention(y, *attention.project_keys_values(y))
assert torch.allclose(by_hand, right, atol=1e-4)
assert torch.allclose(weights.sum(3), torch.ones(1, 6, 82))


def mistake(result):
    return float((attention.out_proj(result.transpose(1, 2).flatten(2)) - right).abs().max())


wide = (queries @ keys.transpose(2, 3) / math.sqrt(192)).softmax(3) @ vectors
q, k, v = (project(y).view(1, 6, 82, 32) for project in projections)
print(f"results of size {right.abs().max():.1f}")
print(f"  root of 192 instead of 32: wrong by {mistake(wide):.2f}")
print(f"  view instead of unflatten: wrong by {mistake(wav2vec2.attend(q, k, v)):.2f}")
assert mistake(wide) > 0.1 and mistake(wav2vec2.attend(q, k, v)) > 0.1

# %% [markdown]
# ## One thing that does nothing
#
# Queries, keys and values each come from a matrix and a bias. Leave out the bias of the *keys*:
# nothing changes. It adds the same number to all scores of a query, and softmax forgets what all
# scores have in common. No test of results can find a wrong key bias; only a comparison of the
# weights themselves can.

# %%
without_bias = keys - attention.k_proj.bias.view(6, 1, 32)
assert torch.allclose(wav2vec2.attend(queries, without_bias, vectors), heads, atol=1e-3)
other = queries - attention.q_proj.bias.view(6, 1, 32)
change = (wav2vec2.attend(other, keys, vectors) - heads).abs().max()
assert change > 0.1  # the bias of the queries matters

# %% [markdown]
# ## Masks
#
# What must not be seen gets the score minus infinity, so exp makes it exactly 0, and the others
# share the whole weight. There are just two masks. *Padding* (in the encoder and in
# cross-attention): no query sees what comes after the end of a recording. *Causal* (decoder): token
# t sees tokens 0 to t, because the later ones are not written yet.
#
# If *everything* is forbidden to a query, its softmax is 0 / 0: written out, as here, NaN.
# PyTorch's function returns 0 instead, so that a wrong mask may go unnoticed.

# %%
real = wav2vec2.valid_frames(torch.tensor([7, 5]), 7)  # two recordings, of 7 and 5 frames
padding = real[:, None, None]  # (2, 1, 1, 7): the same for each head and query
causal = decoder.causal_mask(7, 0, torch.device("cpu"))  # (7, 7)
q = torch.randn(2, 1, 7, 16)
k = torch.randn(2, 1, 7, 16)
views = {"no mask": None, "padding": padding, "causal": causal}

figure, axes = plt.subplots(1, 3, figsize=(8, 3))
for axis, (name, mask) in zip(axes, views.items()):
    weights = wav2vec2.attention_weights(q, k, mask)[1, 0]
    assert torch.allclose(weights.sum(1), torch.ones(7))
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=0.6)
    for t, s in np.argwhere(weights.numpy() == 0):
        axis.text(s, t, "0", color=GREY, ha="center", va="center")
    axis.set(title=name, xlabel="key", ylabel="query", xticks=range(7), yticks=range(7))
# Picture: three squares of attention weights: all filled, two columns of zeros, and zeros above
# the diagonal
plt.show()

weights = wav2vec2.attention_weights(q, k, padding)
assert (weights[1, :, :, 5:] == 0).all() and (weights[0] > 0).all()
assert (wav2vec2.attention_weights(q, k, causal).triu(1) == 0).all()
assert wav2vec2.attention_weights(q, k, torch.zeros(7, 7, dtype=torch.bool)).isnan().all()

# %% [markdown]
# *What to look at: where the zeros are. Padding empties whole columns, for every query; the causal
# mask empties a triangle.*
#
# ## Thirty heads at work
#
# Now all heads of the encoder, five layers of six, while it reads "two four seven". In each square
# a row is a frame that asks, and the dark places are where it looks; the ticks are the three words.

# %%
end = len(waveform) / stt.sample_rate
words = {"two": (0.06, 0.49), "four": (0.93, 1.51), "seven": (1.95, 2.61)}
middles = [np.mean(word) for word in words.values()]
maps = []
for block in encoder.blocks:
    y = block.self_attn_norm(x)
    queries = block.self_attn.split_heads(block.self_attn.q_proj(y))
    keys, _ = block.self_attn.project_keys_values(y)
    maps.append(wav2vec2.attention_weights(queries, keys)[0])  # (6, 82, 82)
    x = block(x, None)
maps = torch.stack(maps)  # (5, 6, 82, 82): layer, head, asking, asked

figure, axes = plt.subplots(5, 6, figsize=(9, 7.6))
for axis, weights in zip(axes.flat, maps.flatten(0, 1)):
    darkest = weights.quantile(0.99) ** 0.5
    axis.imshow(weights.sqrt(), cmap="Purples", extent=(0, end, end, 0), vmax=darkest)
    axis.set(xticks=middles, yticks=middles, xticklabels=[], yticklabels=[])
for layer, axis in enumerate(axes[:, 0]):
    axis.set(ylabel=f"block {layer}")
for axis in axes[-1]:
    axis.set_xticklabels(words, fontsize=7)
# Picture: thirty squares, five layers of six heads: diagonals in the first row, mostly upright
# stripes below
plt.show()

# %% [markdown]
# *What to look at: the first row against all others: diagonals, then stripes.*
#
# Two kinds of picture stand out. In block 0 some heads follow the diagonal: heads 0 and 3 look at
# what is near, wherever they are, and heads 1 and 5 mostly do. Nothing but the positions can tell
# them what is near (lesson 2). In the later blocks most heads show upright stripes: all frames look
# at the same few places, whoever asks. Such a head carries something from one spot of the recording
# to everywhere.
#
# Both can be measured. The first is the share of its weight that a frame gives to what is less than
# 0.3 seconds away. For the second, compare every row with the mean of all rows: 0 if all frames
# look alike, nearly 1 if each has its own place.

# %%
seconds = (torch.arange(82)[:, None] - torch.arange(82)).abs() * end / 82
near = (maps * (seconds < 0.3)).sum(3).mean(2)  # (5, 6)
print("block 0, share of what is near:", [round(float(share), 2) for share in near[0]])
assert near[0, [0, 3]].min() > 0.75 and near[0, [1, 5]].min() > max(0.6, near[1:].max())

own = (maps - maps.mean(2, keepdim=True)).abs().sum(3).mean(2) / 2  # (5, 6)
for layer, row in enumerate(own):
    print(f"block {layer}: rows differ by {row.mean():.2f}  {'#' * int(60 * row.mean())}")
assert own[0].mean() > 1.3 * own[1:].mean(1).max()

# %% [markdown]
# The cost is visible, too: every picture is a square. Twice the recording, four times the numbers;
# this is why long recordings are cut into pieces first.
#
# ## Try
#
# 1. On paper again: add 10 to all three scores. What happens to the weights? And if you multiply
#    them by 10?
# 2. Zero one head in `heads` before they are joined, each in turn. Which of block 0 changes the
#    result the most?
# 3. Make the recording longer with a second of silence. Do the heads that look at what is near
#    still do so?
#
# <details><summary>Answers</summary>
#
# 1. Ten added to all scores changes nothing: exp(score + 10) is exp(score) times the same number
#    for all, and it cancels. Ten times the scores gives 0.00002, 0.017 and 0.983: their differences
#    are what counts, and the largest takes nearly everything.
# 2. Head 0. Without it the result changes by more than half of its length, without any of the
#    others by less than half.
# 3. Where the recording was before, they do: heads 0 and 3 still give about 0.75 of the weight to
#    what is near, heads 1 and 5 about 0.55 (a little more before). In the added silence all four
#    give it half or less: nothing is to be found nearby, and these frames look elsewhere. Attention
#    looks for what is useful, and near is only often so.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 5    # attention: 45 minutes, **
