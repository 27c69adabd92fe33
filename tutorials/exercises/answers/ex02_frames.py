import torch


def conv_output_lengths(frames, conv):
    if frames is None:
        return None
    padded = frames + 2 * conv.padding[0]
    return torch.div(padded - conv.kernel_size[0], conv.stride[0], rounding_mode="floor") + 1


def valid_frames(frames, total):
    return torch.stack([torch.arange(total, device=frames.device) < count for count in frames])


def zero_padding(x, frames):
    if frames is None:
        return x
    valid = torch.stack([torch.arange(x.shape[1], device=x.device) < count for count in frames])
    return torch.where(valid[:, :, None], x, torch.zeros_like(x))
