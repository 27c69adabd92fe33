import torch


def causal_mask(T, past, device):
    rows = torch.arange(T, device=device)[:, None]
    columns = torch.arange(past + T, device=device)[None, :]
    return columns <= rows + past
