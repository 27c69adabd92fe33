import torch

from nanos2t.wav2vec2 import conv_output_lengths, zero_padding


def masked_group_norm(x, frames, weight, bias, eps=1e-5):
    result = torch.zeros_like(x)
    for b in range(len(x)):
        end = x.shape[2] if frames is None else int(frames[b])
        real = x[b, :, :end]
        mean = real.mean(1, keepdim=True)
        variance = real.var(1, unbiased=False, keepdim=True)
        result[b] = (x[b] - mean) / torch.sqrt(variance + eps) * weight[:, None] + bias[:, None]
    return result


class ConvLayer:
    def forward(self, x, lengths):
        x = self.conv(x)
        lengths = conv_output_lengths(lengths, self.conv)
        if self.norm is not None:
            x = self.norm(x, lengths)
        x = self.activation(x)
        return x, lengths


class FeatureEncoder:
    def forward(self, x, samples):
        x = zero_padding(x[:, :, None], samples)[:, :, 0]
        frames = samples
        if x.shape[1] < self.min_samples:
            x = torch.cat([x, x.new_zeros(len(x), self.min_samples - x.shape[1])], 1)
        if frames is not None:
            frames = frames.clamp(min=self.min_samples)
        x = x.unsqueeze(1)
        for layer in self.conv_layers:
            x, frames = layer(x, frames)
        return x.transpose(1, 2), frames
