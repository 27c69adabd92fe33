class Block:
    def forward(self, x, mask):
        source = self.self_attn_norm(x) if self.pre_norm else x
        keys, values = self.self_attn.project_keys_values(source)
        x = x + self.self_attn(source, keys, values, mask)
        if not self.pre_norm:
            x = self.self_attn_norm(x)
        source = self.mlp_norm(x) if self.pre_norm else x
        x = x + self.mlp(source)
        if not self.pre_norm:
            x = self.mlp_norm(x)
        return x
