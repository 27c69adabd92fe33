"""Placeholder while the model is trained: greedy only."""
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class GenerationConfig:
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    forced_bos_token_id: int | None = None
    max_length: int = 20

    def need(self, name):
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is not set")
        return value


@torch.no_grad()
def generate(model, input_values, attention_mask=None, forced=None, max_length=40):
    """forced: (B*K,) first tokens after start"""
    from nanos2t.model import memory_mask
    g = model.generation
    memory, frames = model.encode(input_values, attention_mask)
    mask = memory_mask(frames, memory)
    read = model.decoder.read(memory)
    rows = len(forced)
    cache = model.decoder.new_cache(rows, max_length)
    tokens = torch.full((rows, 1), g.decoder_start_token_id)
    tokens = torch.cat([tokens, forced[:, None]], 1)
    model.decoder(tokens[:, :1], read, mask, cache)
    done = torch.zeros(rows, dtype=torch.bool)
    while tokens.shape[1] < max_length and not done.all():
        new = model.decoder(tokens[:, -1:], read, mask, cache)[:, -1].argmax(-1)
        new = new.masked_fill(done, g.pad_token_id)
        tokens = torch.cat([tokens, new[:, None]], 1)
        done |= new == g.eos_token_id
    return tokens
