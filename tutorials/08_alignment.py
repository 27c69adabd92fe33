# %% [markdown]
# # 8. When was each word said?
#
# The model writes *what* was said. *When* it was said is nowhere in its output, and nobody trained
# it to know. Still it can be found: to write a word, the decoder must look at the frames where it
# is, and we can watch it look. This is how subtitles get their times. It takes three steps: see,
# choose, and walk a path.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nanos2t
from nanos2t.transcription import alignment

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREEN = "#4f8a4c"
GREY = "0.6"
torch.set_grad_enabled(False)

stt = nanos2t.load()
waveform = stt.load_audio(Path(nanos2t.__file__).parent / "assets" / "sample.wav")
end = len(waveform) / stt.sample_rate
memory, _ = stt.model.encode(stt.prepare([waveform])[0])  # (1, 82, 192)


def pieces(tokens):
    return [stt.tokenizer.backend.id_to_token(token).replace("▁", "_") for token in tokens]


def draw_weights(axis, weights):
    """Draw attention weights (T, S): a row for each token, the frames along the seconds."""
    extent = (0, end, len(weights), 0)
    axis.imshow(
        weights, cmap="Oranges", aspect="auto", extent=extent, vmin=0, interpolation="nearest"
    )


# %% [markdown]
# ## See
#
# Write the text first, then read it once more, and keep the weights of every cross-attention: two
# layers of six heads. `alignment.run_decoder` does that. Row t is the step at which the decoder had
# read token t and chose token t + 1; the columns are the 82 frames.

# %%
result = stt.transcribe(waveform, sample_rate=stt.sample_rate)
tokens = result.tokens
# The steps that chose "two", "four", "seven": not the language, not the end
rows = range(1, len(tokens) - 2)
_, weights = alignment.run_decoder(stt.model.decoder, torch.tensor(tokens[:-1]), memory)
weights = weights[:, :, rows]  # (2, 6, 3, 82)
print(result.text, pieces(tokens))
assert weights.shape == (2, 6, 3, 82)

best = [list(pair) for pair in stt.model.generation.alignment_heads]
figure, axes = plt.subplots(3, 6, figsize=(10, 4.2), height_ratios=(2, 2, 1))
for (layer, head), map_ in zip(np.ndindex(2, 6), weights.flatten(0, 1)):
    axis = axes[layer, head]
    chosen = [layer, head] in best
    draw_weights(axis, map_)
    style = {"color": ORANGE, "fontweight": "bold"} if chosen else {}
    axis.set_title(f"layer {layer}, head {head}", fontsize=9, **style)
    ticks = [0.5, 1.5, 2.5] if head == 0 else []
    axis.set(xticks=[], yticks=ticks)
for axis in axes[:2, 0]:
    axis.set_yticklabels(pieces(tokens[2:5]))
for axis in axes[2]:
    axis.plot(np.arange(len(waveform)) / stt.sample_rate, waveform, color=GREY, lw=0.4)
    axis.set(xlim=(0, end), yticks=[], xlabel="seconds")
    axis.spines["left"].set_visible(False)
# Picture: twelve maps of cross-attention, three words by time, above the waveform; three have bold
# titles
plt.show()

# %% [markdown]
# *What to look at: heads 2 and 3 of layer 1, whose titles are bold, have three steps, each above
# its word in the waveform. So has the mean of all bold ones, below.*
#
# ## Choose
#
# Some heads draw a staircase: one dark step per word, falling to the right. That is listening, word
# by word. Others do other work. Head 1 of layer 0 is one word *too far*: while "four" is chosen it
# looks at "seven", because to write a number one must know how many digits follow.
#
# A good head has one property: a later token looks at a later frame. `alignment.choose_heads` asks
# for every pair of tokens how much more likely "later" is than "earlier" (Kendall's tau), and takes
# the two best. In one short recording the best may be so by chance, and in a translation the words
# may have another order than the sound. So a model may store its heads, and the bundled one does:
# in 200 joined recordings, head 4 of layer 0 and heads 2 and 3 of layer 1, together, look most at
# the spoken word 99 times of 100. They are `alignment_heads` in its `generation_config.json`, and
# bold above. `transcribe`, `align` and `report` take their word times from them, as this lesson
# does.

# %%
when = weights.argmax(3) * end / 82  # (2, 6, 3) seconds
words = {
    "two": (0.06, 0.49),
    "four": (0.93, 1.51),
    "seven": (1.95, 2.61),
}  # by eye, from the waveform


def heard(seconds):
    return [
        next((word for word, (a, b) in words.items() if a <= s <= b), "-") for s in seconds.tolist()
    ]


for layer, head in (1, 2), (1, 3):
    assert heard(when[layer, head]) == ["two", "four", "seven"]
together = weights[tuple(zip(*best))].mean(0)  # (3, 82), of the bold heads
assert heard(together.argmax(1) * end / 82) == ["two", "four", "seven"]
assert heard(when[0, 1])[1] == "seven" and weights[0, 1, 1].max() > 0.4
print("chosen by this recording alone:", alignment.choose_heads(weights).tolist())

# %% [markdown]
# ## Walk
#
# Now a *path* through the mean of the three: from the first token and frame to the last, each step
# one token on, one frame on, or both, at the least cost. To find it we need not try all paths. The
# cheapest way to a cell comes from one of three neighbours, so
#
#     total[t, s] = cost[t, s] + min(total[t-1, s-1], total[t-1, s], total[t, s-1])
#
# filled row by row, and then walked backwards. This is dynamic time warping, `alignment.dtw`; the
# cost here is one minus the weight. To trust it, plant a staircase and three traps: tokens that
# look harder at the frame of *another* token, as happens when a word is said twice. The largest
# weight falls for them, the path does not: it cannot go back.

# %%
rng = np.random.default_rng(0)
hidden = np.sort(rng.choice(80, 12, replace=False))  # token t is in frame hidden[t]
planted = 0.05 * rng.random((12, 80))
planted[range(12), hidden] += 0.5
planted[[2, 5, 9], hidden[[7, 1, 4]]] += 0.6
found = alignment.find_peaks(planted, monotone=True)
print(
    "found",
    (found == hidden).sum(),
    "of 12; by the largest weight alone",
    (planted.argmax(1) == hidden).sum(),
)
assert (found == hidden).all() and (planted.argmax(1) == hidden).sum() == 9

path = alignment.dtw(1 - planted)
steps = np.diff(path, axis=0)
assert path[0].tolist() == [0, 0] and path[-1].tolist() == [11, 79]
assert {tuple(step) for step in steps.tolist()} <= {(1, 1), (1, 0), (0, 1)}

# %% [markdown]
# On the recording: the path, and on it the frame with the largest weight for each token, its peak.
# The word begins before its peak: it is shown from the time when a tenth of the weight around the
# peak has passed, and 0.06 s earlier, since it must have begun when it is recognised. It ends 0.4 s
# after the peak, or when the next word begins. `alignment.align_tokens` takes all of these steps.

# %%
positions = alignment.find_text(stt.tokenizer, tokens)
options = alignment.AlignmentOptions(monotone=True, heads=best)
aligned = alignment.align_tokens(stt.model, tokens, positions, memory, end, options)
mean = aligned.weights  # (3, 82)
frame = aligned.peaks  # (3,)
times = aligned.times  # (3, 2)
path = alignment.dtw(1 - mean)

figure, (above, below) = plt.subplots(2, 1, figsize=(9, 4.2), sharex=True, height_ratios=(1, 1.4))
draw_weights(above, mean)
above.plot((path[:, 1] + 0.5) * end / 82, path[:, 0] + 0.5, color=BLUE, lw=2)
above.plot((frame + 0.5) * end / 82, np.arange(3) + 0.5, "o", color=BLUE, ms=8)
above.set(yticks=[0.5, 1.5, 2.5], yticklabels=words, title="mean of the chosen heads, and the path")
below.plot(np.arange(len(waveform)) / stt.sample_rate, waveform, color=GREY, lw=0.5)
for word, (start, stop), colour in zip(words, times, (BLUE, ORANGE, GREEN)):
    below.axvspan(start, stop, color=colour, alpha=0.25)
    below.text((start + stop) / 2, 0.62, word, color=colour, ha="center", fontsize=12)
below.set(xlabel="seconds", yticks=[], ylim=(-0.7, 0.75))
# Picture: the mean of three heads with a path through it, and the waveform with three coloured
# words
plt.show()

for (word, (start, stop)), found in zip(words.items(), times):
    print(f"{word:<6} found {found[0]:.2f} to {found[1]:.2f}, by eye {start:.2f} to {stop:.2f}")
    assert abs(found[0] - start) < 0.1 and found[0] < stop and found[1] > start

# %% [markdown]
# *What to look at: the path goes through the dark cells, and each coloured span lies on its word
# in the waveform.*
#
# ## Where the path must not be walked
#
# "Two four seven" in German is *zweihundertsiebenundvierzig*: two hundred seven and forty. The
# units come before the tens. To write this, the decoder must look at "seven" first, and then go
# *back* to "four". The same heads show that it does:

# %%
german = stt.transcribe(waveform, sample_rate=stt.sample_rate, language="de")
names = pieces(german.tokens)[2:-1]
positions = alignment.find_text(stt.tokenizer, german.tokens)
options = alignment.AlignmentOptions(monotone=False, heads=best)
aligned = alignment.align_tokens(stt.model, german.tokens, positions, memory, end, options)
mean = aligned.weights  # (6, 82)
frame = aligned.peaks  # (6,)

figure, (above, below) = plt.subplots(2, 1, figsize=(9, 4.2), sharex=True, height_ratios=(2, 1))
draw_weights(above, mean)
seconds = (frame + 0.5) * end / 82
rows = np.arange(len(names)) + 0.5
# A piece without a peak has a hollow dot.
fills = [BLUE if has_peak else "white" for has_peak in aligned.has_peak]
above.plot(seconds, rows, color=BLUE, lw=1)
above.scatter(seconds, rows, c=fills, edgecolors=BLUE, zorder=3)
above.set(yticks=np.arange(len(names)) + 0.5, yticklabels=names, title=german.text)
below.plot(np.arange(len(waveform)) / stt.sample_rate, waveform, color=GREY, lw=0.5)
below.set(xlabel="seconds", yticks=[])
# Picture: six German pieces by time, a line that goes right, back left, and right again, with dots
# of which those without a peak are hollow, above the waveform
plt.show()
at = heard(torch.tensor(seconds))
print([*zip(names, at)])
assert names == ["_zwei", "hundert", "sieben", "und", "vier", "zig"]
assert [at[0], at[2], at[4]] == ["two", "seven", "four"]  # forward, then back
assert at[1] == "seven" and mean[5].max() < mean[2].max() / 3
print([*zip(names, aligned.has_peak.tolist())])
assert aligned.has_peak[[0, 2, 4]].all() and not aligned.has_peak[5]

# %% [markdown]
# *What to look at: the line. It goes forward to the last word for "sieben", and back to the middle
# one for "vier". Hollow dots are pieces without a peak.*
#
# Two more things are worth a look. "hundert" is nowhere in the sound; to write it, the decoder must
# know that two more digits follow "two", and it looks at the last of them. And for "zig" it looks
# nowhere in particular: after "siebenundvier" nothing else is possible.
#
# So a translation has no path: each token is timed on its own. A token for which the decoder looks
# nowhere, such as "zig", has no peak, and takes the time of the token before it. The package asks
# for a path by language (`alignment.choose_options`).
#
# In a shell, the times of what is said, and of a text that you give:
#
#     nanos2t transcribe nanos2t/assets/sample.wav --words --format json
#     nanos2t align nanos2t/assets/sample.wav "two four seven"
#
# ## Try
#
# 1. Draw the German picture for another language. Danish puts the units first, too; French and
#    Italian do not.
# 2. Align a text that was *not* said ("two five seven"). Where does the decoder find "five"? Does
#    its probability tell?
# 3. Take other heads: `stt.transcribe(..., words=True, alignment_heads=[[0, 1]])`. How far off are
#    the times?
#
# <details><summary>Answers</summary>
#
# 1. Danish, "tohundrede og syvogfyrre", goes to "seven" with "syv" and back to "four" with "ogf",
#    as German and Dutch do. French and Italian go forward: "deux" at "two", "quar" or "qua" at
#    "four", "sept" or "sette" at "seven". What the sound does not contain ("hundrede", "cent")
#    often has no peak.
# 2. It finds "five" from 1.0 to 1.5 s, exactly where "four" is: asked for a second digit, it looks
#    at the second word. The times say nothing against it. The probability does: it is below 0.01,
#    and more than 0.98 for "two" and "seven".
# 3. Head 1 of layer 0 looks one word ahead: "two" would begin at 1.1 s, which is in "four", and
#    "four" at 2.0 s, with "seven".
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 13   # the alignment: 40 minutes, **
