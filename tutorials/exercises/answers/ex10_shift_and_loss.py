import torch


def shift_right(labels, start, pad):
    shifted = torch.roll(labels, 1, dims=1)
    shifted[:, 0] = start
    shifted[shifted == -100] = pad
    return shifted


def cross_entropy(logits, labels):
    logprobs = torch.log_softmax(logits, dim=-1)
    counts = labels != -100
    chosen = logprobs.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    loss = -torch.where(counts, chosen, 0.0).sum()
    return loss / max(1, int(counts.sum()))
