# %% [markdown]
# # 2. The encoder, step by step
#
# Lesson 1 ended with frames: one vector for every 320 samples, each made of 50 milliseconds of
# sound and of nothing else. A word takes ten times as long. So the frames need to exchange
# information, and that is what the rest of the encoder does. We take it apart, put it together by
# hand, and watch what every layer does to the recording. `nanos2t.load()` gives the core as its
# source shows it, so you can also set a breakpoint in `wav2vec2.Block.forward` and step through it:
# `stepping_through.md` says where.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

import nanos2t
from nanos2t import wav2vec2
from nanos2t.inspection.observer import observe_stages

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREY = "0.6"
torch.set_grad_enabled(False)

stt = nanos2t.load()
waveform = stt.load_audio(Path(nanos2t.__file__).parent / "assets" / "sample.wav")
values, _ = stt.prepare([waveform])
encoder = stt.model.encoder
print(encoder.config)

# %% [markdown]
# ## Every stage, in order
#
# `observe_stages` looks on while the model runs and keeps what each stage returns, by name. Reading
# down, the recording gets shorter while its vectors get wider; from the projection on, the shape
# stays as it is.

# %%
with observe_stages(stt.model) as stages:
    memory, _ = stt.model.encode(values)
for name, x in stages.items():
    print(f"{name:<16} {tuple(x.shape)!s:<16} mean {x.mean():7.3f}   deviation {x.std():6.3f}")
assert torch.equal(memory, stages["encoder norm"])
assert stages["conv 6"].shape == (1, 192, 82) and memory.shape == (1, 82, 192)

# %% [markdown]
# ## By hand
#
# The same in a few lines. This is all there is to it:
#
# - the *projection* normalises each frame and multiplies it by a matrix;
# - the *positions* are added: a convolution over 128 frames (we come to it below);
# - each *block* adds two things to the frames: what attention found in other frames, and what a
#   small network made of each frame alone. A norm precedes both of them, so this order is called
#   pre-norm;
# - after the last block, one more norm.

# %%
frames, _ = encoder.feature_encoder(values, None)
x = encoder.feature_projection.proj(encoder.feature_projection.norm(frames))
x = x + encoder.positions(x)
for block in encoder.blocks:
    y = block.self_attn_norm(x)
    keys, vectors = block.self_attn.project_keys_values(y)
    x = x + block.self_attn(y, keys, vectors)  # look at other frames
    x = x + block.mlp(block.mlp_norm(x))  # think about what was found
x = encoder.norm(x)
assert torch.allclose(x, memory, atol=1e-4)

# %% [markdown]
# wav2vec2-base has the norms elsewhere: *after* each sum (post-norm). In both orders the blocks
# have the same weights in the same shapes, so one loads into the other without complaint, and the
# result is worthless:

# %%
x = stages["projection"] + stages["positions"]
for block in encoder.blocks:
    x = block.self_attn_norm(x + block.self_attn(x, *block.self_attn.project_keys_values(x)))
    x = block.mlp_norm(x + block.mlp(x))
wrong = (encoder.norm(x) - memory).abs().max()
print(f"in post-norm order, numbers of size {memory.abs().max():.1f} change by up to {wrong:.1f}")
assert wrong > 1

# %% [markdown]
# ## Where am I? A convolution knows
#
# Attention has no idea of order: shuffle the frames, and its results are shuffled in the same way,
# nothing else. Text models add a table of positions. This family adds a *wide convolution* instead:
# each frame gets a mixture of its neighbours, 64 on either side, with a different weight for each
# distance.

# %%
torch.manual_seed(0)
shuffle = torch.randperm(82)
projected = stages["projection"]
block = encoder.blocks[0]
assert torch.allclose(
    block(projected[:, shuffle], None), block(projected, None)[:, shuffle], atol=1e-4
)
with_positions = projected + encoder.positions(projected)
shuffled = projected[:, shuffle] + encoder.positions(projected[:, shuffle])
assert (shuffled - with_positions[:, shuffle]).abs().max() > 1

# %% [markdown]
# Send in silence with a click, one frame among zeros, and see how far it is felt. With 128 weights
# the reach cannot be the same on both sides: frame t feels frames t - 64 to t + 63. The convolution
# is padded with 64 zeros on *both* sides, which gives one frame too many, and the last is cut off
# (`wav2vec2.position_conv`). Cutting off the first instead moves everything by one frame: a mistake
# that is easy to make and hard to notice.
#
# The weights are kept in an unusual form, weight norm: a direction and a length for each tap.
#
#     weight[k] = gain[k] * direction[k] / |direction[k]|
#
# So the gains alone say how much each distance counts: the nearest most, but the frame itself less
# than those beside it.

# %%
positions = encoder.positions
click = torch.zeros(1, 200, 192)
click[0, 100] = stages["projection"][0, 30]
taps = positions.gain, positions.direction, torch.zeros(192), positions.groups
felt = wav2vec2.position_conv(click, *taps)[0].norm(dim=1).numpy()
assert np.flatnonzero(felt).tolist() == list(range(100 - 63, 100 + 64 + 1))
gain = positions.gain[0, 0].numpy()
assert abs(gain.argmax() - 64) < 4 and gain[64] < min(gain[63], gain[65])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.bar(np.arange(-64, 64), gain, color=BLUE)
left.set(title="gain of each tap", xlabel="frames from here (before, after)", ylabel="gain")
right.bar(np.arange(200) - 100, felt, color=ORANGE)
right.set(
    title="how much a click is felt",
    xlabel="frames after the click",
    ylabel="size",
    xlim=(-80, 80),
)
# Picture: two bar charts: the gains of 128 taps, highest in the middle, and how much a click is
# felt before and after it
plt.show()

# %% [markdown]
# *What to look at: on the left the small dip at 0, between two high neighbours; on the right that
# a click is felt almost equally before it and after it.*
#
# ## Watch the recording take shape
#
# Take two frames and ask how alike their vectors are: cosine similarity, 1 for the same direction.
# All pairs make a square picture, one for every stage; the words are framed.
#
# After the convolutions it is a plaid of sounds: vowel is like vowel, and silence is like silence
# wherever it is; where a word ends, the similarity ends at once. The positions and the first block
# change that. The pauses were all equally alike; now each is like itself, and less like the others.
# The squares on the diagonal lose their edges, and a band runs through them: frames are alike
# because they are near. The frames still know *what* they are, and now also *where*.

# %%
words = {"two": (0.06, 0.49), "four": (0.93, 1.51), "seven": (1.95, 2.61)}  # seconds
names = ["conv 6", "projection", *(f"encoder block {i}" for i in range(5))]
views = {name: stages[name][0].T if name.startswith("conv") else stages[name][0] for name in names}


def similarity(x):
    """Return the cosines (T, T) of the angles between frames (T, H), after subtracting their
    mean.
    """
    x = F.normalize(x - x.mean(0), dim=1)
    return (x @ x.T).numpy()


figure, axes = plt.subplots(2, 4, figsize=(10, 5.4))
end = len(waveform) / stt.sample_rate
for axis, (name, x) in zip(axes.flat, views.items()):
    axis.imshow(similarity(x), cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, end, end, 0))
    axis.set(title=name, xticks=[], yticks=[])
    for start, stop in words.values():
        size = stop - start
        axis.add_patch(plt.Rectangle((start, start), size, size, fill=False, lw=0.7))
middles = [np.mean(word) for word in words.values()]
for axis in axes[:, 0]:
    axis.set(yticks=middles, yticklabels=words)
axes[1, 3].plot(np.arange(len(waveform)) / stt.sample_rate, waveform, color=GREY, lw=0.4)
axes[1, 3].set(title="the sound", yticks=[], xlabel="seconds")
# Picture: seven square maps of similarity, one for each stage, with the three words framed, and
# the waveform
plt.show()

# %% [markdown]
# *What to look at: follow the frame of one word through the stages. At first its square has hard
# edges; then a band along the diagonal grows through it.*
#
# In numbers. *What*: how much more alike are distant frames of the same kind (both speech or both
# silence) than distant frames of different kinds? *Where*: how much more alike are frames of
# silence that are near than frames of silence in other pauses?

# %%
when = (np.arange(82) + 0.5) * end / 82
speech = np.any([(when > start) & (when < stop) for start, stop in words.values()], axis=0)
same_kind = speech[:, None] == speech
silence = ~(speech[:, None] | speech)
apart = np.abs(np.arange(82)[:, None] - np.arange(82))


def what(x):
    alike = similarity(x)
    return alike[same_kind & (apart > 6)].mean() - alike[~same_kind & (apart > 6)].mean()


def where(x):
    alike = similarity(x)
    return alike[silence & (apart < 5)].mean() - alike[silence & (apart > 20)].mean()


print(f"{'':<16} {'what':>6} {'where':>6}")
for name, x in views.items():
    print(f"{name:<16} {what(x):>6.2f} {where(x):>6.2f}")
assert what(views["conv 6"]) > what(views["encoder block 4"]) > 0.8
assert where(views["projection"]) < 0.1 and where(views["encoder block 0"]) > 0.3

# %% [markdown]
# ## Two recordings at once
#
# A batch holds recordings of different lengths, the shorter ones filled up with zeros. Those zeros
# are not silence, they are *nothing*, and must not influence the result: attention gets a mask, and
# the positional convolution gets zeros after the end. The test of it all: a recording gives the
# same numbers alone and in a batch.

# %%
short = waveform[: int(1.6 * stt.sample_rate)]  # "two four"
values, mask = stt.prepare([waveform, short])
batched, real = stt.model.encode(values, mask)
alone, _ = stt.model.encode(stt.prepare([short])[0])
print("frames that are real:", real.tolist(), "of", batched.shape[1])
assert (batched[1, : real[1]] - alone[0]).abs().max() < 1e-4

unmasked, _ = stt.model.encode(values)  # the mask forgotten
wrong = (unmasked[1, : real[1]] - alone[0]).abs().max()
print(f"without the mask the short one changes by up to {wrong:.2f}")
assert wrong > 0.1

# %% [markdown]
# In transformers, some official models fail this test: the group norm of wav2vec2-base takes its
# mean over the zeros, too. `wav2vec2.masked_group_norm` masks it.
#
# ## What this encoder has never heard
#
# The encoder in these lessons is small (2.8 million numbers) and has heard little but digits: six
# people and some synthetic voices, with noise and music around them. It is enough to see how the
# parts work. It is no picture of what a large encoder has learned, and we cannot show one here:
# none comes with the package, and the lessons need no network.
#
# - Large encoders are *pretrained* on thousands of hours of speech without any text: parts of the
#   frames are hidden, and the model learns to tell which of several candidates was there. Then an
#   output layer or a decoder is added, and all of it learns from recordings with texts.
# - What that is worth, by the paper (Baevski et al. 2020; not measured here): with texts for ten
#   minutes of recordings, after 53,000 hours without, and a language model to help, 4.8 % of the
#   words are wrong on the clean test set of LibriSpeech, and 8.2 % on the other one.
# - What ours lacks shows soon. A model like it, trained without one of the six people, wrote 91 %
#   of this person's numbers right; the bundled one writes nearly all of those of all six, as its
#   `README.md` says. And of all that people say it knows ten digits: other sounds, among them
#   digits played backwards, it was trained to take for nothing (the first question below).
# - The parts are the same. Whoever has a large checkpoint in a folder gives it to `nanos2t.load`,
#   and can draw the same pictures of it.
#
# ## Try
#
# 1. Give the encoder the recording backwards (`waveform[::-1]`) and draw the squares again. Which
#    stay, which turn?
# 2. Take out block 2 and let the decoder write the text. Is any block more important than the
#    others?
# 3. `EncoderConfig.large` is the shape of a real checkpoint. How many of its numbers are in the
#    convolutions, how many in the blocks? Build it under `torch.device("meta")`, where nothing is
#    stored.
#
# <details><summary>Answers</summary>
#
# 1. All of them turn. Turned back by 180 degrees, the picture after the convolutions is the old
#    one, nearly (their correlation is 0.97): to a convolution of 50 ms, a vowel is a vowel in both
#    directions. After the last block it is 0.85: the order of the sounds has begun to matter. The
#    model writes nothing.
# 2. With any one of the five blocks taken out it writes "two four seven": each adds only a little
#    to what is there. Written as a number in English, it needs the last block: without block 4 it
#    is "two thousand, four hundred and seventy-seven", without any of the others it is right. So
#    one right text proves little: lesson 9 has faults that no text shows.
# 3. Of 315 million numbers, 4.2 million are in the convolutions, 302 million in the 24 blocks, 8.4
#    million in the positional convolution, 0.5 million in the projection. Yet the convolutions work
#    on far more places in time than the blocks do.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 3    # a convolution block: 45 minutes, **
#     nanos2t exercises 4    # the positional convolution: 30 minutes, **
#     nanos2t exercises 6    # the encoder's block: 20 minutes, *
