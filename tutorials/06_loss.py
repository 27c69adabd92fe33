# %% [markdown]
# # 6. The loss, and where its gradient flows
#
# The decoder says how likely each token is to come next. To train it, we need one number that says
# how wrong it was: the loss. Everything a model knows it got from the gradient of this number. We
# compute it by hand, tell the model a lie, and then follow the gradient from the text back to the
# sound.

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

import nanos2t
from nanos2t.model import IGNORED, cross_entropy, shift_right

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREY = "0.6"

stt = nanos2t.load()
model = stt.model
waveform = stt.load_audio(Path(nanos2t.__file__).parent / "assets" / "sample.wav")
values, _ = stt.prepare([waveform])

# %% [markdown]
# ## From scores to log-probabilities
#
# The decoder's numbers, the *logits*, may be any size. Softmax makes probabilities of them. A text
# has the product of the probabilities of its tokens, which is soon too small for a computer: 0.001
# to the power of 20 is 0 in 32 bits. So we take logarithms, and add them:
#
#     log p[i] = logit[i] - log(sum of all exp(logit[j]))
#
# exp(1000) is infinite, too. But the same number taken off all logits changes no probability, so
# first take off the largest. `log_softmax` does it all.

# %%
logits = torch.tensor([2.0, 1.0, 0.0])
p = logits.exp() / logits.exp().sum()
print("probabilities", [round(float(x), 3) for x in p])
print("their logarithms", [round(float(x), 3) for x in p.log()])
assert torch.allclose(p.log(), logits.log_softmax(0))

tiny = torch.full((20,), 0.001)
print("product", float(tiny.prod()), "sum of logarithms", round(float(tiny.log().sum()), 1))
large = torch.tensor([1000.0, 999.0, 998.0])
assert (large.exp() / large.exp().sum()).isnan().all()
shifted = large - large.max()
assert torch.allclose(shifted - shifted.exp().sum().log(), logits.log_softmax(0))

# %% [markdown]
# The loss of one token is -log p of the token that should have come. To be sure and right costs
# nothing, and to be sure and *wrong* costs without limit. Who guesses evenly among the 320 tokens
# of the bundled model pays log 320 = 5.77 for each: a new model should begin there.

# %%
figure, axis = plt.subplots(figsize=(8, 3))
probability = np.geomspace(1e-6, 1, 200)
axis.plot(probability, -np.log(probability), color=BLUE, lw=2)
marks = {"a guess among 320": 1 / 320, "a guess among 10": 0.1, "half sure": 0.5}
for name, x in marks.items():
    axis.plot(x, -math.log(x), "o", color=ORANGE)
    label = f"{name}: {-math.log(x):.2f}"
    axis.annotate(label, (x, -math.log(x)), (8, 4), textcoords="offset points")
axis.set(xscale="log", xlabel="probability of the right token", xlim=(5e-7, 20))
axis.set(ylabel="loss", ylim=(0, None))
axis.set(title="what a token costs: -log p")
# Picture: a straight line that falls from 14 at a probability of a millionth to 0 at 1
plt.show()

torch.manual_seed(0)
new = nanos2t.SpeechEncoderDecoder.from_configs(model.encoder.config, model.decoder.config).eval()
some_labels = torch.randint(13, 320, (1, 200))
some_inputs = torch.randint(13, 320, (1, 60))
with torch.no_grad():
    new_loss = cross_entropy(new(values, decoder_input_ids=some_inputs).logits, some_labels[:, :60])
print(f"a new model: {new_loss:.2f}, log 320: {math.log(320):.2f}")
assert abs(new_loss - math.log(320)) < 0.2

# %% [markdown]
# *What to look at: each step of ten in probability costs the same, 2.3. The loss counts how far off
# a belief was, not only whether the guess was right.*
#
# ## Labels, and the same labels one place later
#
# To train, we need at each position what *was* written and what *should* come next. The second are
# the labels; the first are the labels moved right by one, with a start token in front
# (`shift_right`). A label that does not count is `IGNORED` (-100): padding, or a token that is
# given anyway. The loss is the mean over all the others.

# %%
start = model.generation.decoder_start_token_id
pad = model.generation.pad_token_id
language = model.generation.lang_to_id["verbatim"]
words = stt.tokenizer.encode("two four seven")  # and the end token
labels = torch.tensor([[language, *words, IGNORED, IGNORED]])
inputs = shift_right(labels, start, pad)
print("labels", labels[0].tolist())
print("input ", inputs[0].tolist())
assert inputs[0].tolist() == [start, *labels[0, :5].tolist(), pad]

output = model(values, labels=labels)  # it shifts by itself
logprobs = output.logits.log_softmax(2)
costs = -logprobs[0, range(5), labels[0, :5]].detach()
print("per label", [round(float(x), 2) for x in costs], "mean", round(output.loss.item(), 3))
assert torch.allclose(output.loss, costs.mean())
assert torch.allclose(cross_entropy(output.logits, labels), costs.mean())

# %% [markdown]
# One label is expensive: the first, the language. Nothing in the sound reveals it, so it is given,
# not guessed, and from here on it is ignored. The rest costs almost nothing: the model is sure.
#
# It is one mean over all labels of a *batch*, not the mean of each text's mean. So a long text
# counts more than a short one. And where no label counts, the loss is 0, with a gradient of 0: an
# empty batch must not stop a training with an error.


# %%
def make_labels(*texts):
    """Return labels (B, T) of texts, the language and the padding ignored, and the input."""
    rows = [torch.tensor([language, *stt.tokenizer.encode(text)]) for text in texts]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    inputs = shift_right(padded, start, pad)
    padded[:, 0] = IGNORED
    return padded, inputs


labels, inputs = make_labels("two four seven", "two five")
output = model(values, labels=labels, decoder_input_ids=inputs)
costs = F.cross_entropy(output.logits.transpose(1, 2), labels, reduction="none")  # (2, T)
counts = (labels != IGNORED).sum(1)
sums = [round(x, 2) for x in costs.sum(1).tolist()]
print("labels that count:", counts.tolist(), "sums:", sums)
print(
    f"one mean {costs.sum() / counts.sum():.3f}, mean of means {(costs.sum(1) / counts).mean():.3f}"
)
assert torch.allclose(output.loss, costs.sum() / counts.sum())

nothing = cross_entropy(output.logits, torch.full_like(labels, IGNORED))
(gradient,) = torch.autograd.grad(nothing, output.logits, retain_graph=True)
assert nothing == 0 and (gradient == 0).all()

# %% [markdown]
# ## Teacher forcing: tell it a lie
#
# In training the decoder reads the *right* text so far, whatever it would have written itself: this
# is teacher forcing. All positions can be computed at once, since none waits for another. What if
# the teacher is wrong? We feed "two five seven". Each column is a position; the label below it is
# what the decoder has just been told.


# %%
def believes(text):
    """Feed a text -> the tokens fed, and the probabilities of the next one, (T, 320)."""
    _, inputs = make_labels(text)
    with torch.no_grad():
        logits = model(values, decoder_input_ids=inputs).logits
    return inputs[0], logits[0].softmax(1)


def name_of(token):
    return stt.tokenizer.decode([int(token)], skip_special_tokens=False)


shown = stt.tokenizer.encode("two four five seven nine")
names = [name_of(token) for token in shown]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for axis, text in zip(axes, ("two four seven", "two five seven")):
    fed, p = believes(text)
    belief = p[1:, shown]  # (T - 1, tokens shown)
    axis.imshow(belief.T, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for t, s in np.argwhere(belief.numpy() > 0.005):
        style = {"ha": "center", "va": "center", "color": "black"}
        if belief[t, s] > 0.5:
            style["color"] = "white"
        axis.text(t, s, f"{belief[t, s]:.2f}", **style)
    axis.set(xticks=range(len(belief)), xticklabels=map(name_of, fed[1:]))
    axis.set(yticks=range(len(shown)), yticklabels=names)
    axis.set(xlabel="it was just told", title=f'told "{text}"')
axes[0].set(ylabel="it expects next")
# Picture: two tables of probabilities, each nearly 1 along a diagonal; the two are the same
plt.show()

four, five, seven = (stt.tokenizer.encode(word)[0] for word in ("four", "five", "seven"))
fed, p = believes("two five seven")
assert p[2, four] > 0.9 and p[2, five] < 0.05  # it heard "four", whatever the teacher said
assert p[3, seven] > 0.9  # and goes on where the sound goes on

# %% [markdown]
# *What to look at: the two pictures are alike. After the lie "five" the model expects "seven" as
# surely as after the truth.*
#
# It is not misled. A decoder that learned more about the language than about listening would go
# astray here; models that translate text often do.
#
# ## The gradient at the logits
#
# The loss has a gradient: for each number in the model, how much the loss rises if the number does.
# At the logits it is the simplest that one can think of:
#
#     gradient = (p - 1 at the right token) / number of labels
#
# The right token is pushed up by what it lacks to 1, and all others are pushed down by what they
# have. Where the right token is believed already, nothing is pushed: nothing is learned from what
# is known.

# %%
labels, inputs = make_labels("two five seven")
output = model(values, labels=labels, decoder_input_ids=inputs)
(gradient,) = torch.autograd.grad(output.loss, output.logits, retain_graph=True)
p = output.logits.softmax(2)
real = labels != IGNORED
right = F.one_hot(labels.masked_fill(~real, 0), 320)
by_hand = (p - right) * real[..., None] / real.sum()
assert torch.allclose(gradient, by_hand, atol=1e-6)
assert (gradient[~real] == 0).all()  # ignored labels push nothing
assert gradient.sum(2).abs().max() < 1e-6  # what goes up must be taken from others
size = [round(float(x), 4) for x in gradient[0].norm(dim=1)]
print("size of the push at each position:", size)

figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
for axis, position in zip(axes, (1, 2)):
    push = -gradient[0, position, shown]
    colours = [BLUE if x >= 0 else ORANGE for x in push.tolist()]
    axis.barh(names, push, color=colours)
    axis.axvline(0, color=GREY, lw=0.8)
    label = name_of(labels[0, position])
    axis.set(title=f'where the label is "{label}"', xlabel="push on the logit", xlim=(-0.3, 0.3))
axes[0].invert_yaxis()
# Picture: no bars where the label is "two"; "five" pushed up and "four" down where it is "five"
plt.show()

# %% [markdown]
# *What to look at: on the left nothing, since "two" was expected and is right. On the right the
# lie: "five" up, "four" down, by the same amount, a quarter, as four labels count.*
#
# ## Where it flows
#
# From the logits the gradient goes backwards through everything that took part. Its length in each
# part of the model shows who would learn. With the true text there is hardly anything to learn;
# with the lie, the decoder and the encoder would both have to change, down to the first
# convolution.


# %%
def list_parts():
    """The parts of the model, in the order in which data passes through them."""
    encoder = model.encoder
    parts = {f"conv {i}": layer for i, layer in enumerate(encoder.feature_encoder.conv_layers)}
    parts |= {"projection": encoder.feature_projection, "positions": encoder.positions}
    parts |= {f"encoder block {i}": block for i, block in enumerate(encoder.blocks)}
    parts["embedding"] = model.decoder.embed
    parts |= {f"decoder block {i}": block for i, block in enumerate(model.decoder.blocks)}
    parts["head"] = model.decoder.head
    return parts


def gradient_lengths(text):
    """Return the loss of a text, and the length of its gradient in each part of the model."""
    labels, inputs = make_labels(text)
    model.zero_grad()
    loss = model(values, labels=labels, decoder_input_ids=inputs).loss
    loss.backward()
    lengths = {}
    for name, part in list_parts().items():
        flat = [p.grad.flatten() for p in part.parameters() if p.grad is not None]
        lengths[name] = float(torch.cat(flat).norm())
    return loss.item(), lengths


lengths = {}
for text in ("two four seven", "two five seven"):
    loss, lengths[text] = gradient_lengths(text)
    print(f"{text}: loss {loss:.4f}, longest gradient {max(lengths[text].values()):.4f}")

figure, axis = plt.subplots(figsize=(9, 3.8))
places = np.arange(len(list_parts()))
for (text, parts), colour, shift in zip(lengths.items(), (BLUE, ORANGE), (-0.2, 0.2)):
    axis.bar(places + shift, parts.values(), width=0.4, color=colour, label=f'told "{text}"')
axis.set(yscale="log", ylabel="length of the gradient")
axis.set_xticks(places, list_parts(), rotation=60, ha="right")
axis.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
# Picture: bars for 18 parts of the model, those of the lie many times as long as those of the
# truth
plt.show()
truth, lie = lengths.values()
ratios = [lie[name] / truth[name] for name in truth]
assert min(ratios) > 10

# %% [markdown]
# *What to look at: the scale, which goes in steps of ten. The orange bars are all of a similar
# size, between 1 and 8, in the first convolution as in the head: what each block adds to, rather
# than replaces (lesson 2), the gradient can pass.*
#
# Two things are exactly as the other lessons say. The bias of the keys gets no gradient, because it
# changes nothing (lesson 3): what is left is rounding. And a part that is frozen
# (`model.freeze_feature_encoder`) is where the gradient ends.

# %%
biases = {name: p.grad.norm() for name, p in model.named_parameters() if "proj.bias" in name}
keys = max(float(x) for name, x in biases.items() if "k_proj" in name)
queries = min(float(x) for name, x in biases.items() if "q_proj" in name)
print(f"gradients of biases: keys at most {keys:.0e}, queries at least {queries:.0e}")
assert keys < 1e-3 * queries

model.zero_grad()
model.freeze_feature_encoder()
cross_entropy(model(values, decoder_input_ids=inputs).logits, labels).backward()
assert all(p.grad is None for p in model.encoder.feature_encoder.parameters())
assert model.encoder.positions.gain.grad is not None
model.encoder.feature_encoder.requires_grad_(True)

# %% [markdown]
# ## Down to the sound
#
# The waveform is an input like any other: the loss has a gradient there, too. It says which samples
# would have to change for the lie to be believed.

# %%
sound = values.clone().requires_grad_()
output = model(sound, labels=labels, decoder_input_ids=inputs)
(gradient,) = torch.autograd.grad(output.loss, sound)
strength = gradient[0].abs().numpy()
smooth = np.convolve(strength, np.hanning(400) / 200, "same")  # over 50 ms
seconds = np.arange(len(waveform)) / stt.sample_rate

figure, (above, below) = plt.subplots(2, 1, figsize=(9, 3.6), sharex=True)
above.plot(seconds, waveform, color=GREY, lw=0.5)
above.set(yticks=[], title="two   four   seven")
below.fill_between(seconds, smooth, color=ORANGE, lw=0)
below.set(xlabel="seconds", ylabel="size of the gradient", yticks=[], ylim=(0, None))
# Picture: the waveform, and below it the gradient, large only where "four" is said
plt.show()
during = (seconds > 0.9) & (seconds < 1.55)  # "four"
share = smooth[during].sum() / smooth.sum()
print(f"{share:.0%} of the gradient is in the {during.mean():.0%} of the recording that say four")
assert share > 2 * during.mean()

# %% [markdown]
# *What to look at: half of it or more is in the fifth of the recording where "four" is said, the
# word that was lied about, and hardly any in the pauses. Nobody told the model where "four" is.
# This is how, from texts without times, an encoder learns which sounds belong to which word.*
#
# A gradient is a promise about small steps. Change a number by a little, and the loss changes by
# the gradient times that little. This tests any gradient, in 64 bits:

# %%
precise = nanos2t.SpeechEncoderDecoder.from_configs(model.encoder.config, model.decoder.config)
precise.load_state_dict(model.state_dict())
precise = precise.double().eval()
bias = precise.decoder.head.bias
values64 = values.double()


def loss_of():
    return precise(values64, labels=labels, decoder_input_ids=inputs).loss


loss_of().backward()
slope = float(bias.grad[five])
with torch.no_grad():
    before = float(loss_of())
    bias[five] += 1e-5
    change = (float(loss_of()) - before) / 1e-5
print(f"gradient {slope:.6f}, measured {change:.6f}")
assert abs(slope - change) < 1e-5

# %% [markdown]
# ## Try
#
# 1. Feed "two" twice, or leave out "four". Does it continue with what comes next in the sound, or
#    with what is missing?
# 2. Compute the loss of "two four seven" for each of the nine languages, with the language ignored
#    and not ignored. Which label makes the difference?
# 3. Take one step of plain gradient descent towards the lie, p = p - rate * gradient, with rates of
#    0.001, 0.1 and 10. When does the loss fall, and when has the step been too long?
#
# <details><summary>Answers</summary>
#
# 1. It goes on where the sound goes on. After "two two" it expects "seven" with more than 0.99, as
#    if "four" had been there. Left out, "two" and then "seven": it expects "seven" once more, if
#    less surely. It counts what was written, and listens there.
# 2. Not ignored, the language costs 13 or more in all nine. Ignored, "verbatim" costs next to
#    nothing, and the others between 3 (Spanish) and 7 (English): told to write German, the model
#    would not begin with "two". English expects "two hundred", so its first label is cheap, and the
#    second costs about 15.
# 3. A rate of 0.001 takes a little off the loss, and 0.05 nearly all of it: the model then writes
#    "two five seven". With 0.1 the loss is nearly as high as before, and the model writes "five"
#    four times. With 10 it rises to hundreds, and it writes "five" without an end. The gradient
#    promises nothing about long steps.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 10   # the shifted labels and the loss: 25 minutes, *
