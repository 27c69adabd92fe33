import torch


class Embedding:
    def forward(self, tokens, past):
        if past + tokens.shape[1] > self.config.max_positions:
            raise ValueError("more tokens than positions")
        positions = past + torch.arange(tokens.shape[1], device=tokens.device)
        positions = positions + self.config.position_offset
        x = self.config.embed_scale * self.tokens(tokens)
        x = x + self.positions(positions)
        if self.token_types is not None:
            x = x + self.token_types(torch.zeros_like(tokens))
        return self.dropout(self.norm(x))
