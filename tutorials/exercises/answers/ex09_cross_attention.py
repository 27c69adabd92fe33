class Block:
    def attend_memory(self, x, memory, mask):
        keys, values = memory
        beams = x.shape[0] // keys.shape[0]
        keys = keys.repeat_interleave(beams, 0)
        values = values.repeat_interleave(beams, 0)
        if mask is not None:
            mask = mask.repeat_interleave(beams, 0)
        return self.cross_attn(x, keys, values, mask)

    def forward(self, x, memory, memory_mask, cache):
        def same(x):
            return x

        norms = (self.self_attn_norm, self.cross_attn_norm, self.mlp_norm)
        nothing = (same, same, same)
        pre = norms if self.pre_norm else nothing
        post = nothing if self.pre_norm else norms
        x = post[0](x + self.attend_tokens(pre[0](x), cache))
        x = post[1](x + self.attend_memory(pre[1](x), memory, memory_mask))
        x = post[2](x + self.mlp(pre[2](x)))
        return x
