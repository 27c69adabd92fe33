# %% [markdown]
# # 1. From waveform to frames
#
# A recording is a long list of numbers, thousands of them a second. A transformer wants a short
# list of vectors, a few dozen a second. Seven convolutions turn the first into the second. This
# lesson looks at both ends, counts what comes out, and finds the exact samples that one vector was
# made of.
#
# You need Python and a little PyTorch. The model is the small one that comes with the package; it
# recognises spoken digits.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import nanos2t
from nanos2t import EncoderConfig, audio, wav2vec2

plt.rcParams.update(
    {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
)
BLUE = "#2a6f97"
ORANGE = "#e07a1f"
GREEN = "#4f8a4c"
GREY = "0.6"

stt = nanos2t.load()
sample = Path(nanos2t.__file__).parent / "assets" / "sample.wav"
waveform = audio.load_audio(sample, stt.sample_rate)
seconds = np.arange(len(waveform)) / stt.sample_rate
print(f"{len(waveform)} numbers, {stt.sample_rate} a second: {seconds[-1]:.2f} seconds of sound")
print("a synthetic voice says:", stt.transcribe(sample))

# %% [markdown]
# ## Look at it
#
# The file holds 22,050 samples a second. The model was trained on 8,000, so `audio.load_audio`
# resamples. (Official checkpoints want 16,000. The rate matters: at another one the model would
# hear everything slowed down or sped up.)
#
# Zoom in, and two kinds of sound look different. A vowel repeats itself: the vocal cords open and
# close about a hundred times a second. An "s" is noise: air in a narrow gap, with no pattern that
# returns.

# %%
vowel = slice(9600, 10000)  # 50 ms of "four"
hiss = slice(15650, 16050)  # 50 ms of the "s" of "seven"
figure, axes = plt.subplot_mosaic([["all", "all"], ["vowel", "hiss"]], figsize=(9, 5))
axes["all"].plot(seconds, waveform, color=GREY, lw=0.5)
axes["all"].set(title="two   four   seven", xlabel="seconds", ylabel="air pressure")
for name, part, colour in ("vowel", vowel, ORANGE), ("hiss", hiss, BLUE):
    start = seconds[part.start]
    milliseconds = 1000 * (seconds[part] - start)
    axes["all"].axvspan(start, seconds[part.stop], color=colour, alpha=0.5)
    axes[name].plot(milliseconds, waveform[part], color=colour, lw=1)
    axes[name].set(title=f"50 ms of {name}", xlabel="milliseconds")
# Picture: the waveform of three words, and below it 50 ms of a vowel, which repeats, and of a
# hiss, which does not
plt.show()


def repeats(x, lags=range(40, 130)):
    """Return the largest correlation of a signal with itself `lag` samples later, and that lag."""
    correlations = [np.corrcoef(x[lag:], x[:-lag])[0, 1] for lag in lags]
    best = int(np.argmax(correlations))
    return correlations[best], lags[best]


like_itself, lag = repeats(waveform[vowel])
print(f"the vowel repeats every {lag} samples: a voice of {stt.sample_rate / lag:.0f} Hz")
assert like_itself > 0.8 and repeats(waveform[hiss])[0] < 0.4

# %% [markdown]
# *What to look at: the vowel has the same shape every few milliseconds, the hiss never. Both are
# only 50 ms long: this is what one frame sees.*
#
# ## Normalise
#
# How loud a recording is says nothing about its words, so loudness is taken out first:
#
#     y = (x - mean(x)) / sqrt(variance(x) + 0.0000001)
#
# `audio.normalise` does just this. The small number is there for silence, which would otherwise be
# 0 / 0.

# %%
normal = audio.normalise(waveform)
print(f"before: mean {waveform.mean():+.4f}, variance {waveform.var():.4f}")
print(f"after:  mean {normal.mean():+.4f}, variance {normal.var():.4f}")
assert abs(normal.mean()) < 1e-4 and abs(normal.var() - 1) < 1e-3
assert np.abs(audio.normalise(3 * waveform) - normal).max() < 1e-3  # three times as loud: the same
assert (audio.normalise(np.zeros(1000)) == 0).all()  # silence stays silence

# %% [markdown]
# ## Seven convolutions
#
# A convolution of kernel K and stride S slides a window of K numbers along the signal, S at a time,
# and in each place forms a weighted sum. From L numbers it makes
#
#     (L - K) // S + 1
#
# because the first window needs K of them, and each later one S more. Seven of these follow each
# other in `wav2vec2.FeatureEncoder`. The strides multiply to 320, so there is a frame for every 320
# samples: 25 a second here, 50 a second at 16,000 Hz. Only the first convolution sees the sound;
# each of the others sees the output of the one before it.

# %%
config = stt.model.encoder.config


def count_frames(samples):
    for kernel, stride in zip(config.conv_kernels, config.conv_strides):
        samples = (samples - kernel) // stride + 1
    return samples


left = len(waveform)
print("      kernel stride channels   left over")
for kernel, stride, channels in zip(config.conv_kernels, config.conv_strides, config.conv_channels):
    left = (left - kernel) // stride + 1
    print(f"{kernel:>12} {stride:>6} {channels:>8} {left:>11}")

with torch.no_grad():
    values, _ = stt.prepare([waveform])
    frames, _ = stt.model.encoder.feature_encoder(values, None)
print("frames:", tuple(frames.shape), "(batch, time, channels)")
assert np.prod(config.conv_strides) == 320
assert frames.shape[1] == count_frames(len(waveform)) == left
assert count_frames(10 * 16000) == 499  # ten seconds at 16,000 Hz: not 500
assert np.mean([count_frames(n) != n // 320 for n in range(400, 400 + 3200)]) == 0.25
assert [count_frames(n) for n in (399, 400, 719, 720)] == [0, 1, 1, 2]

# %% [markdown]
# "Samples divided by 320" is the formula that everybody writes first. For one length in four it is
# wrong by one, and every whole number of seconds is among them: 160,000 / 320 is 500, but there are
# 499 frames. A mask made with it marks a frame as real that does not exist.
#
# ## The ruler
#
# How many samples make one frame? Go backwards: one number after the last convolution came from 2,
# these from 4, these from 9, and so on, until 400 samples. Frame t starts at sample 320 t and ends
# before 320 t + 400: it shares 80 samples with the next one. Fewer than 400 samples make no frame,
# so the encoder fills a shorter clip up with zeros; `EncoderConfig.min_samples` is that number.

# %%
samples = 1
sizes = []
for kernel, stride in zip(config.conv_kernels[::-1], config.conv_strides[::-1]):
    samples = (samples - 1) * stride + kernel
    sizes.append(samples)
print("one frame sees", ", ".join(map(str, sizes)), "numbers, going back to the sound")
assert sizes[:3] == [2, 4, 9]
assert samples == config.min_samples == EncoderConfig().min_samples == 400

first = 29
start = 320 * first
stop = 320 * (first + 5) + 80
figure, axis = plt.subplots(figsize=(9, 3))
axis.plot(np.arange(start, stop), normal[start:stop], color=GREY, lw=0.8)
for t in range(first, first + 5):
    y = -11 - 2 * (t % 2)
    colour = ORANGE if t % 2 else BLUE
    begin = 320 * t
    axis.barh(y, 400, left=begin, height=1.7, color=colour, alpha=0.85)
    axis.text(begin + 200, y, f"frame {t}", color="white", ha="center", va="center", fontsize=9)
    axis.axvspan(begin, begin + 80, color=GREY, alpha=0.25, lw=0)
axis.set(
    title="400 samples wide, 320 apart: neighbours share 80",
    xlabel="sample",
    yticks=[],
    xlim=(start, stop),
)
axis.spines["left"].set_visible(False)
# Picture: the waveform as a grey line, and below it five bars of 400 samples, each of which
# overlaps the next
plt.show()

# %% [markdown]
# *What to look at: the grey stripes, where two frames see the same 80 samples.*
#
# ## Is that really so? Ask the model
#
# The gradient of a frame with respect to the waveform says which samples it depends on. Outside 320
# t to 320 t + 399 it is exactly zero. Inside it is not even: compare its peaks with the pulses of
# the voice, in the picture above.


# %%
def influence(encoder, x, t):
    """How much frame t of a waveform (L,) depends on each sample: the size of its gradient,
    (L,).
    """
    x = torch.as_tensor(x)[None].requires_grad_()
    made, _ = encoder(x, None)
    torch.manual_seed(0)
    (made[0, t] * torch.randn(made.shape[2])).sum().backward()
    return x.grad[0].abs().numpy()


figure, axis = plt.subplots(figsize=(9, 3))
for t, colour in zip(range(30, 33), (BLUE, ORANGE, GREEN)):
    strength = influence(stt.model.encoder.feature_encoder, normal, t)
    touched = np.flatnonzero(strength)
    assert touched[0] >= 320 * t and touched[-1] <= 320 * t + 399
    smooth = np.convolve(strength, np.hanning(15) / 7, "same")
    axis.fill_between(
        np.arange(len(normal)), smooth, color=colour, alpha=0.5, lw=0, label=f"frame {t}"
    )
    axis.axvline(320 * t, color=colour, lw=1)
    axis.axvline(320 * t + 399, color=colour, lw=1, ls=":")
axis.set(
    title="what a frame listens to, between its first and last sample",
    xlim=(320 * 30 - 60, 320 * 32 + 460),
)
axis.set(xlabel="sample", ylabel="size of the gradient", yticks=[], ylim=(0, None))
axis.legend(frameon=False, loc="upper center")
# Picture: three filled curves side by side, one for each frame, that end where the frame's 400
# samples end
plt.show()

# %% [markdown]
# *What to look at: each curve stays between its own two lines, the full and the dotted one; beyond
# them it is exactly zero.*
#
# One consequence: cut off the first 320 samples, and the same frames come out, one place earlier.
# Cut off 160, and every number is different, though no ear would notice. The model has to learn to
# be indifferent to that.
#
# There is a trap in the older models (wav2vec2-base, HuBERT base): their first convolution is
# followed by a group norm, which divides by statistics of the *whole* clip (`conv_norm="group"`).
# There, every frame depends on every sample.

# %%
with torch.no_grad():
    by_one, by_half = (
        stt.model.encoder.feature_encoder(values[:, shift:], None)[0] for shift in (320, 160)
    )
assert (by_one[0] - frames[0, 1:]).abs().max() < 1e-4
assert (by_half[0, :-1] - frames[0, : by_half.shape[1] - 1]).abs().max() > 0.5

torch.manual_seed(0)
grouped = EncoderConfig(num_layers=0, conv_channels=(8,) * 7, conv_norm="group", hidden_size=32)
with_group_norm = wav2vec2.FeatureEncoder(grouped)
assert np.count_nonzero(influence(with_group_norm, normal[:8000], 10)) > 7900

# %% [markdown]
# ## What the convolutions learned
#
# Nobody told the first layer about frequencies, yet its 32 filters became a filter bank: each lets
# one band through best, and the bands share the range from 500 Hz upwards. Below on the right are
# the frames, under a spectrogram, which is the classical picture of speech: both change where the
# sound does, and within "four" both slide.

# %%
first_layer = stt.model.encoder.feature_encoder.conv_layers[0]
kernels = first_layer.conv.weight[:, 0].detach().numpy()  # (32, 10)
response = np.abs(np.fft.rfft(kernels, 256))  # (32, 129)
response = response / response.max(1, keepdims=True)
order = response.argmax(1).argsort()
hertz = np.fft.rfftfreq(256, 1 / stt.sample_rate)
peaks = hertz[response.argmax(1)]
assert peaks.min() < 600 and peaks.max() > 3500
filters_per_band, _ = np.histogram(peaks, np.arange(500, 4000, 500))
assert filters_per_band.all()  # a filter or more for each 500 Hz

picture = frames[0].T.numpy()  # (channels, time)
picture = (picture - picture.mean(1, keepdims=True)) / (picture.std(1, keepdims=True) + 1e-5)
picture = picture[picture.argmax(1).argsort()]

places = [["bank", "wave"], ["bank", "spectrum"], ["bank", "frames"]]
figure, axes = plt.subplot_mosaic(places, figsize=(9, 6), width_ratios=(1, 2.2))
axes["bank"].imshow(
    response[order], aspect="auto", origin="lower", cmap="magma", extent=(0, 4000, 0, 32)
)
axes["bank"].set(title="first layer: what passes", xlabel="Hz", ylabel="filter, sorted by its peak")
axes["wave"].plot(seconds, normal, color=GREY, lw=0.5)
axes["wave"].set(title="waveform", xlim=(0, seconds[-1]), xticks=[], yticks=[])
# A little noise: silence has no logarithm.
noise = 0.002 * np.random.default_rng(0).standard_normal(len(normal))
windows = {"NFFT": 256, "noverlap": 192, "Fs": stt.sample_rate}
axes["spectrum"].specgram(normal + noise, cmap="magma", vmin=-90, **windows)
axes["spectrum"].set(title="spectrogram", ylabel="Hz", xticks=[], xlim=(0, seconds[-1]))
axes["frames"].imshow(
    picture, aspect="auto", cmap="viridis", vmax=3, extent=(0, seconds[-1], 192, 0)
)
axes["frames"].set(
    title="frames (192 channels, sorted by when they peak)", xlabel="seconds", ylabel="channel"
)
# Picture: a map of 32 filters by frequency with a bright band along its diagonal; the waveform,
# its spectrogram and its 192 channels of frames above each other
plt.show()

# %% [markdown]
# *What to look at: on the left one bright band for each filter, from low to high. On the right,
# read upright: where the waveform starts a word, spectrogram and frames change at the same time.*
#
# ## Try
#
# 1. Load the sample at 16,000 Hz with `audio.load_audio` and give it to the model as if it were
#    8,000. What does it write?
# 2. Change the kernels to (10, 3, 3, 3, 3, 3, 3) and work out the ruler on paper, then with the
#    loop above.
# 3. How short can you cut "seven" before the model writes another digit? Count in frames.
#
# <details><summary>Answers</summary>
#
# 1. Other digits, or none: twice as many samples for the same sound are, to the model, a voice that
#    speaks at half the speed, an octave lower.
# 2. Going back from one number: 3, 7, 15, 31, 63, 127, and (127 - 1) * 5 + 10 = 640 samples. The
#    strides are the same, so there is still a frame for every 320 samples, and neighbours share
#    half of what they see.
# 3. Cut off its end: 12 of its 16 frames are still "seven". With 11 to 6 it writes "two"; with 5 to
#    3 "seven" again, though little more than the "s" is left, and with 2 nothing at all. There is
#    no sharp border: half a word is like more than one word, and the model has only ten to choose
#    from.
#
# </details>
#
# ## Now write it
#
#     nanos2t exercises 1    # the normalisation: 15 minutes, *
#     nanos2t exercises 2    # frame counts and masks: 20 minutes, *
