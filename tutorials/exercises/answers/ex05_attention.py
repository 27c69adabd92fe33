import torch


def attention_weights(queries, keys, mask=None):
    scores = torch.einsum("bntd,bnsd->bnts", queries, keys)
    scores = scores / queries.shape[-1] ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    return torch.softmax(scores, dim=-1)


def attend(queries, keys, values, mask=None, is_causal=False, dropout=0.0):
    if is_causal:
        T, S = queries.shape[2], keys.shape[2]
        mask = torch.arange(S)[None, :] <= torch.arange(T)[:, None]
    weights = attention_weights(queries, keys, mask)
    return weights @ values


class Attention:
    def split_heads(self, x):
        B, T, H = x.shape
        N, D = self.num_heads, H // self.num_heads
        return x.reshape(B, T, N, D).permute(0, 2, 1, 3)

    def forward(self, x, keys, values, mask=None, is_causal=False):
        queries = self.split_heads(self.q_proj(x))
        heads = attend(queries, keys, values, mask, is_causal)
        B, N, T, D = heads.shape
        merged = heads.permute(0, 2, 1, 3).reshape(B, T, N * D)
        return self.dropout(self.out_proj(merged))
