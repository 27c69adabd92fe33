import torch
from torch.nn import functional as F


def position_conv(x, gain, direction, bias, groups):
    taps = direction.shape[2]
    length = direction.square().sum((0, 1)).sqrt()
    weight = gain * (direction / length)
    left, right = taps // 2, taps - 1 - taps // 2
    padded = F.pad(x, (0, 0, left, right))
    windows = padded.unfold(1, taps, 1)  # (B, T, H, K)
    results = []
    for inputs, matrix in zip(windows.chunk(groups, 2), weight.chunk(groups, 0)):
        results.append(torch.einsum("bthk,ohk->bto", inputs, matrix))
    return torch.cat(results, 2) + bias
