"""What students really get wrong: a sentence that names it, and the edits that make an answer so.

An edit (old, new) is made in the text of the second right answer, answers/exNN_*.py.
"""

MISTAKES = {
    "ex01": [
        (
            "the variance is divided by L - 1: divide by L, the number of samples",
            ("np.mean(centred**2)", "np.sum(centred**2) / (len(waveform) - 1)"),
        ),
        (
            "silence becomes NaN: add eps to the variance before the root",
            ("(variance + eps)", "variance"),
        ),
        (
            "eps is added to the standard deviation: add it to the variance, under the root",
            ("(variance + eps) ** 0.5", "(variance**0.5 + eps)"),
        ),
        (
            "eps is a fixed 1e-5: use the argument, by default 1e-7",
            ("variance + eps", "variance + 1e-5"),
        ),
        ("the mean is not subtracted", ("return centred", "return waveform")),
        (
            "it divides by the variance: divide by its square root",
            ("(variance + eps) ** 0.5", "(variance + eps)"),
        ),
        (
            "it divides by the loudest sample: divide by the standard deviation",
            ("(variance + eps) ** 0.5", "(np.abs(centred).max() + eps)"),
        ),
        (
            "the variance is taken around 0: subtract the mean before you square",
            ("np.mean(centred**2)", "np.mean(waveform**2)"),
        ),
        (
            "only the mean is subtracted: divide by the standard deviation, too",
            (" / (variance + eps) ** 0.5", ""),
        ),
    ],
    "ex02": [
        (
            "each count is one too small: the first window counts, too (+ 1)",
            ('rounding_mode="floor") + 1', 'rounding_mode="floor")'),
        ),
        (
            "frames are samples / stride: a window must fit as a whole, so the kernel comes off first",
            (
                'conv.stride[0], rounding_mode="floor") + 1',
                'conv.stride[0], rounding_mode="floor")',
            ),
            ("padded - conv.kernel_size[0]", "padded"),
        ),
        (
            "it rounds up: a window that does not fit as a whole makes no frame",
            ("torch.div(padded - conv.kernel_size[0]", "-torch.div(conv.kernel_size[0] - padded"),
        ),
        (
            "padding is added on one side: it stands on both",
            ("2 * conv.padding[0]", "conv.padding[0]"),
        ),
        ("the padding of the convolution is left out", ("frames + 2 * conv.padding[0]", "frames")),
        (
            "the result is not whole: divide with // and lose the rest",
            (', rounding_mode="floor"', ""),
        ),
        (
            "frames=None fails: None means that nothing is padded, so give it back",
            ("    if frames is None:\n        return None\n", ""),
        ),
        (
            "the mask has one True too many: frame number `frames` is the first of the padding",
            (
                "arange(total, device=frames.device) < count",
                "arange(total, device=frames.device) <= count",
            ),
        ),
        (
            "the mask is the wrong way round: True means real",
            (
                "arange(total, device=frames.device) < count",
                "arange(total, device=frames.device) >= count",
            ),
        ),
        (
            "the mask marks the end of the buffer: padding stands on the right, so real frames come first",
            (
                "arange(total, device=frames.device) < count",
                "arange(total, device=frames.device) >= total - count",
            ),
        ),
        (
            "the mask is (T, B): items come first, (B, T)",
            (
                "< count for count in frames])\n\n\ndef zero",
                "< count for count in frames], 1)\n\n\ndef zero",
            ),
        ),
        (
            "the mask holds numbers: give bool, so that ~ and masked_fill work",
            (
                "(total, device=frames.device) < count for count in frames])",
                "(total, device=frames.device) < count for count in frames]).long()",
            ),
        ),
        (
            "the real frames became zero and the padding stayed",
            (
                "torch.where(valid[:, :, None], x, torch.zeros_like(x))",
                "torch.where(valid[:, :, None], torch.zeros_like(x), x)",
            ),
        ),
        ("the padding became one: zeros are wanted", ("torch.zeros_like(x)", "torch.ones_like(x)")),
        (
            "padded frames are cut off the shape or moved: only their values change",
            (
                "return torch.where(valid[:, :, None], x, torch.zeros_like(x))",
                "return x[:, : int(frames.min())]",
            ),
        ),
    ],
    "ex03": [
        (
            "the statistics include the padding: sum over the real frames, divide by their number",
            ("end = x.shape[2] if frames is None else int(frames[b])", "end = x.shape[2]"),
        ),
        (
            "each frame is normalised over its channels: masked_group_norm goes over time, channel by channel",
            ("mean = real.mean(1, keepdim=True)", "mean = x[b].mean(0, keepdim=True)"),
            (
                "variance = real.var(1, unbiased=False, keepdim=True)",
                "variance = x[b].var(0, unbiased=False, keepdim=True)",
            ),
        ),
        (
            "all channels are normalised together: each channel has its own mean and variance",
            ("real.mean(1, keepdim=True)", "real.mean()"),
            ("real.var(1, unbiased=False, keepdim=True)", "real.var(unbiased=False)"),
        ),
        (
            "the variance is divided by T - 1: divide by T, the number of real frames",
            ("unbiased=False", "unbiased=len(real[0]) > 1"),
        ),
        (
            "eps is added to the standard deviation: add it to the variance, under the root",
            ("torch.sqrt(variance + eps)", "(torch.sqrt(variance) + eps)"),
        ),
        ("eps is a fixed 1e-5: use the argument", ("variance + eps", "variance + 1e-5")),
        ("weight and bias are missing at the end", (" * weight[:, None] + bias[:, None]", "")),
        (
            "the mean is right, but the variance counts the padding: mask the squares as well",
            (
                "real.var(1, unbiased=False, keepdim=True)",
                "(x[b] - mean).square().sum(1, keepdim=True) / end",
            ),
        ),
        (
            "the norm is missing: each layer is convolution, norm, activation",
            ("x = self.norms[i](x, frames)", "pass"),
        ),
        (
            "the activation comes before the norm: convolution, norm, activation",
            (
                "            if i < len(self.norms):\n                x = "
                "self.norms[i](x, frames)\n            x = self.activation(x)\n",
                "            x = self.activation(x)\n            if i < "
                "len(self.norms):\n                x = self.norms[i](x, frames)\n",
            ),
        ),
        (
            "the activation is always ReLU: call self.activation",
            ("self.activation(x)", "torch.relu(x)"),
        ),
        (
            "the activation is always the tanh approximation of GELU: call self.activation",
            ("self.activation(x)", 'torch.nn.functional.gelu(x, approximate="tanh")'),
        ),
        (
            "the activation is missing: without it seven convolutions are no more than one",
            ("            x = self.activation(x)\n", ""),
        ),
        (
            "the activation is missing after layers that have no norm",
            ("            x = self.activation(x)\n", "                x = self.activation(x)\n"),
        ),
        (
            "what stands behind the end of a short item is heard: zero it first",
            ("x = zero_padding(x[:, :, None], samples)[:, :, 0]", "pass"),
        ),
        (
            "the norms are not told how many frames are real: pass the counts behind this convolution",
            ("self.norms[i](x, frames)", "self.norms[i](x, None)"),
        ),
        (
            "a short item has no frame at all: it counts as self.min_samples samples",
            ("            frames = frames.clamp(min=self.min_samples)\n", "            pass\n"),
        ),
        (
            "a clip that is shorter than one frame fails: pad x to self.min_samples with zeros",
            ("x.shape[1] < self.min_samples", "False"),
        ),
        (
            "the result is (B, C, T): exchange the last two dimensions",
            ("return x.transpose(1, 2)", "return x"),
        ),
        (
            "the counts of the input come back: return the counts of frames",
            ("return x.transpose(1, 2), frames", "return x.transpose(1, 2), samples"),
        ),
    ],
    "ex04": [
        (
            "the result is one frame late: an even kernel has the spare frame at "
            "the end, drop the last, not the first",
            (
                "left, right = taps // 2, taps - 1 - taps // 2",
                "right, left = taps // 2, taps - 1 - taps // 2",
            ),
        ),
        (
            "it sees only the past: pad on both sides, not only on the left",
            ("left, right = taps // 2, taps - 1 - taps // 2", "left, right = taps - 1, 0"),
        ),
        (
            "there is one frame too many: an even kernel gives T + 1, drop the last",
            ("left, right = taps // 2, taps - 1 - taps // 2", "left, right = taps // 2, taps // 2"),
        ),
        (
            "nothing is padded, so frames get lost: T frames in, T frames out",
            ("left, right = taps // 2, taps - 1 - taps // 2", "left, right = 0, 0"),
        ),
        (
            "the direction is normalised for each output channel: here each tap "
            "has its length, over dims 0 and 1",
            (
                "direction.square().sum((0, 1)).sqrt()",
                "direction.square().sum((1, 2), keepdim=True).sqrt()",
            ),
        ),
        (
            "the whole direction is brought to length 1: each tap has a length of its own",
            ("sum((0, 1))", "sum()"),
        ),
        (
            "the gain is left out: multiply the normalised direction by it",
            ("gain * (direction / length)", "direction / length"),
        ),
        (
            "the direction is not normalised: divide each tap by its length",
            ("direction / length", "direction"),
        ),
        (
            "the direction is divided by its squared length: take the root",
            ("sum((0, 1)).sqrt()", "sum((0, 1))"),
        ),
        ("the bias is left out", ("torch.cat(results, 2) + bias", "torch.cat(results, 2)")),
        (
            "the taps run backwards: a convolution layer does not flip its kernel",
            (
                "weight = gain * (direction / length)",
                "weight = (gain * (direction / length)).flip(2)",
            ),
        ),
        (
            "GELU is applied here: the caller does that",
            ("torch.cat(results, 2) + bias", "F.gelu(torch.cat(results, 2) + bias)"),
        ),
        (
            "x is added here: the caller does that",
            ("torch.cat(results, 2) + bias", "torch.cat(results, 2) + bias + x"),
        ),
    ],
    "ex05": [
        (
            "x is cut by view(B, N, T, D), which mixes frames: cut the width to "
            "(B, T, N, D) first, then exchange T and N",
            ("x.reshape(B, T, N, D).permute(0, 2, 1, 3)", "x.reshape(B, N, T, D)"),
        ),
        (
            "the heads are interleaved: head n has the columns n * D ... (n + 1) * "
            "D - 1, so N comes before D",
            (
                "x.reshape(B, T, N, D).permute(0, 2, 1, 3)",
                "x.reshape(B, T, D, N).permute(0, 3, 1, 2)",
            ),
        ),
        (
            "T and N are not exchanged: (B, N, T, D) is wanted",
            ("x.reshape(B, T, N, D).permute(0, 2, 1, 3)", "x.reshape(B, T, N, D)"),
        ),
        (
            "the result is (B, N, D, T): frames come before the size of a head",
            (".permute(0, 2, 1, 3)\n\n    def", ".permute(0, 2, 3, 1)\n\n    def"),
        ),
        (
            "scores are divided by sqrt(hidden size): use the size of one head",
            ("queries.shape[-1] ** 0.5", "(queries.shape[1] * queries.shape[-1]) ** 0.5"),
        ),
        ("scores are not divided by sqrt(D)", ("scores / queries.shape[-1] ** 0.5", "scores")),
        (
            "scores are divided by D: divide by its square root",
            ("queries.shape[-1] ** 0.5", "queries.shape[-1]"),
        ),
        (
            "scores are multiplied by sqrt(D): divide",
            ("scores / queries.shape[-1] ** 0.5", "scores * queries.shape[-1] ** 0.5"),
        ),
        (
            "scores are divided by the root of the number of queries: D is the last dimension",
            ("queries.shape[-1] ** 0.5", "queries.shape[-2] ** 0.5"),
        ),
        (
            "the softmax goes over the queries: each query shares 1 among the keys, the last dimension",
            ("torch.softmax(scores, dim=-1)", "torch.softmax(scores, dim=-2)"),
        ),
        (
            "the softmax goes over the heads: each query shares 1 among the keys, the last dimension",
            ("torch.softmax(scores, dim=-1)", "torch.softmax(scores, dim=1)"),
        ),
        ("the mask is not used", ("if mask is not None", "if False")),
        (
            "the mask is the wrong way round: hide where it is False",
            ("torch.where(mask, scores", "torch.where(~mask, scores"),
        ),
        (
            "the mask comes after the softmax, so that rows do not sum to 1: put -inf into the scores",
            (
                '        scores = torch.where(mask, scores, float("-inf"))\n    return '
                "torch.softmax(scores, dim=-1)\n",
                "        return torch.softmax(scores, dim=-1) * mask\n    return "
                "torch.softmax(scores, dim=-1)\n",
            ),
        ),
        ("masked scores are set to 0, and exp(0) is 1: use -inf", ('float("-inf")', "0.0")),
        ("is_causal does nothing", ("if is_causal", "if False")),
        (
            "with is_causal a token sees the one after it",
            ("[None, :] <= torch.arange(T)[:, None]", "[None, :] <= torch.arange(T)[:, None] + 1"),
        ),
        (
            "is_causal is the wrong way round: tokens see what comes after them",
            ("[None, :] <= torch", "[None, :] >= torch"),
        ),
        (
            "attend does not use the mask",
            (
                "attention_weights(queries, keys, mask)\n",
                "attention_weights(queries, keys, mask if is_causal else None)\n",
            ),
        ),
        (
            "attend returns the weights: multiply them with the values",
            ("weights @ values", "weights"),
        ),
        (
            "attend multiplies the weights with the keys: they belong to the values",
            ("weights @ values", "weights @ keys"),
        ),
        (
            "the heads are merged without exchanging N and T first, which mixes frames",
            ("heads.permute(0, 2, 1, 3).reshape(B, T, N * D)", "heads.reshape(B, T, N * D)"),
        ),
        (
            "the heads are merged interleaved: put D last, then flatten",
            ("heads.permute(0, 2, 1, 3)", "heads.permute(0, 2, 3, 1)"),
        ),
        ("out_proj is missing at the end", ("self.out_proj(merged)", "merged")),
        (
            "x is not projected to queries: q_proj is missing",
            ("self.split_heads(self.q_proj(x))", "self.split(x)"),
        ),
        (
            "forward does not pass the mask on",
            (
                "attend(queries, keys, values, mask, is_causal)\n        B",
                "attend(queries, keys, values, None, is_causal)\n        B",
            ),
        ),
        (
            "forward does not pass is_causal on",
            (
                "attend(queries, keys, values, mask, is_causal)\n        B",
                "attend(queries, keys, values, mask)\n        B",
            ),
        ),
        (
            "forward exchanges keys and values",
            (
                "attend(queries, keys, values, mask, is_causal)\n        B",
                "attend(queries, values, keys, mask, is_causal)\n        B",
            ),
        ),
    ],
    "ex06": [
        (
            "pre-norm and post-norm are exchanged",
            (
                "self.self_attn_norm(x) if self.pre_norm",
                "self.self_attn_norm(x) if not self.pre_norm",
            ),
            ("self.mlp_norm(x) if self.pre_norm", "self.mlp_norm(x) if not self.pre_norm"),
            (
                "if not self.pre_norm:\n            x = self.self_attn_norm(x)",
                "if self.pre_norm:\n            x = self.self_attn_norm(x)",
            ),
            (
                "if not self.pre_norm:\n            x = self.mlp_norm(x)",
                "if self.pre_norm:\n            x = self.mlp_norm(x)",
            ),
        ),
        (
            "pre_norm is not looked at: the post-norm block is always computed",
            ("self.self_attn_norm(x) if self.pre_norm else x", "x"),
            ("self.mlp_norm(x) if self.pre_norm else x", "x"),
            (
                "if not self.pre_norm:\n            x = self.self_attn_norm(x)",
                "if True:\n            x = self.self_attn_norm(x)",
            ),
            (
                "if not self.pre_norm:\n            x = self.mlp_norm(x)",
                "if True:\n            x = self.mlp_norm(x)",
            ),
        ),
        (
            "with pre_norm the residual is the normalised input: add to x as it came in",
            ("x = x + self.self_attn", "x = source + self.self_attn"),
            ("x = x + self.mlp", "x = source + self.mlp"),
        ),
        (
            "the two norms are exchanged",
            (
                "        source = self.self_attn_norm(x) if",
                "        first, second = self.mlp_norm, self.self_attn_norm\n        source = first(x) if",
            ),
            ("source = self.mlp_norm(x)", "source = second(x)"),
            ("            x = self.self_attn_norm(x)", "            x = first(x)"),
            ("            x = self.mlp_norm(x)", "            x = second(x)"),
        ),
        (
            "the same norm is used twice: mlp_norm belongs to the MLP",
            ("source = self.mlp_norm(x)", "source = self.self_attn_norm(x)"),
            ("            x = self.mlp_norm(x)", "            x = self.self_attn_norm(x)"),
        ),
        (
            "the mask is not passed to the attention",
            ("self.self_attn(source, keys, values, mask)", "self.self_attn(source, keys, values)"),
        ),
        (
            "with pre_norm keys and values are made of the input before the norm",
            ("keys_values(source)", "keys_values(x)"),
        ),
        (
            "the residual around the attention is missing",
            ("x = x + self.self_attn", "x = self.self_attn"),
        ),
        ("the residual around the MLP is missing", ("x = x + self.mlp", "x = self.mlp")),
        ("the MLP is missing", ("x = x + self.mlp(source)", "pass")),
        (
            "the MLP reads what came in: it reads what the attention has made of it",
            (
                "        source = self.self_attn_norm(x) if",
                "        first = x\n        source = self.self_attn_norm(x) if",
            ),
            (
                "self.mlp_norm(x) if self.pre_norm else x",
                "self.mlp_norm(first) if self.pre_norm else first",
            ),
        ),
        (
            "without pre_norm the norm comes before the sum: norm(x + f(x)), not x + norm(f(x))",
            (
                "x = x + self.self_attn(source, keys, values, mask)\n        if not "
                "self.pre_norm:\n            x = self.self_attn_norm(x)",
                "y = self.self_attn(source, keys, values, mask)\n        x = x + (y if "
                "self.pre_norm else self.self_attn_norm(y))",
            ),
            (
                "x = x + self.mlp(source)\n        if not self.pre_norm:\n            x = self.mlp_norm(x)",
                "y = self.mlp(source)\n        x = x + (y if self.pre_norm else self.mlp_norm(y))",
            ),
        ),
    ],
    "ex07": [
        (
            "the token type is missing: BERT adds row 0 of token_types to every token",
            ("if self.token_types is not None", "if False"),
        ),
        (
            "the second token type is added: all tokens are of the first, row 0",
            ("torch.zeros_like(tokens)", "torch.ones_like(tokens)"),
        ),
        (
            "positions start at 1: the first token has position 0, plus the offset",
            ("positions = past + torch", "positions = 1 + past + torch"),
        ),
        (
            "positions start at 0 though tokens are in the cache: start at past",
            ("past + torch.arange", "torch.arange"),
        ),
        (
            "position_offset is left out: BART's table begins with rows that are skipped",
            ("positions = positions + self.config.position_offset", "pass"),
        ),
        (
            "every token has the same position",
            ("torch.arange(tokens.shape[1], device=tokens.device)", "torch.zeros_like(tokens)"),
        ),
        ("embed_scale is left out", ("self.config.embed_scale * self", "self")),
        (
            "embed_scale multiplies the positions, too: it belongs to the tokens only",
            ("self.config.embed_scale * self.tokens(tokens)", "self.tokens(tokens)"),
            (
                "x + self.positions(positions)",
                "self.config.embed_scale * (x + self.positions(positions))",
            ),
        ),
        ("the positions are missing", ("x = x + self.positions(positions)", "pass")),
        ("the norm is missing", ("self.dropout(self.norm(x))", "self.dropout(x)")),
        (
            "the norm comes before the positions: sum up first",
            (
                "self.config.embed_scale * self.tokens(tokens)",
                "self.norm(self.config.embed_scale * self.tokens(tokens))",
            ),
            ("self.dropout(self.norm(x))", "self.dropout(x)"),
        ),
    ],
    "ex08": [
        (
            "nothing is hidden: every token sees the ones after it",
            ("columns <= rows + past", "(columns <= rows + past) | True"),
        ),
        (
            "each token sees the one after it: the diagonal is one too far right",
            ("rows + past", "rows + past + 1"),
        ),
        (
            "a token does not see itself: without itself and without a past, row 0 would see nothing",
            ("columns <= rows", "columns < rows"),
        ),
        (
            "the mask is the wrong way round: True means may look",
            ("columns <= rows + past", "columns > rows + past"),
        ),
        (
            "each token sees itself and what comes after: that is the upper triangle, take the lower",
            ("columns <= rows + past", "columns >= rows + past"),
        ),
        (
            "the past is not counted in: new token t stands at past + t",
            ("columns <= rows + past", "columns <= rows"),
        ),
        (
            "the past is hidden: all of it may be seen",
            ("columns <= rows + past", "(columns <= rows + past) & (columns >= past)"),
        ),
        (
            "the columns of the past are missing: (T, past + T) is wanted",
            ("columns <= rows + past", "(columns <= rows + past)[:, past:]"),
        ),
        (
            "only the last token is seen: all before it are, too",
            ("columns <= rows + past", "columns == rows + past"),
        ),
        (
            "the mask is made for adding, with 0 and -inf: give bool, True where one may look",
            (
                "return columns <= rows + past",
                'return torch.zeros(T, past + T).masked_fill(columns > rows + past, float("-inf"))',
            ),
        ),
        (
            "the mask holds numbers: give bool",
            ("return columns <= rows + past", "return (columns <= rows + past).float()"),
        ),
    ],
    "ex09": [
        (
            "the mask is not used: padding of the sound is looked at",
            ("self.cross_attn(x, keys, values, mask)", "self.cross_attn(x, keys, values)"),
        ),
        (
            "the self-attention is called: cross_attn has weights of its own",
            ("self.cross_attn(x, keys", "self.self_attn(x, keys"),
        ),
        (
            "keys and values are made of x: they come with the memory",
            (
                "return self.cross_attn(x, keys, values, mask)",
                "return self.cross_attn(x, *self.cross_attn.project_keys_values(x))",
            ),
        ),
        (
            "a causal mask is applied: all of the sound has been heard before",
            (
                "self.cross_attn(x, keys, values, mask)",
                "self.cross_attn(x, keys, values, (mask if mask is not None else "
                "keys.new_ones(1, dtype=bool)) & keys.new_ones(x.shape[1], "
                "keys.shape[2]).tril().bool())",
            ),
        ),
        (
            "x is added here: forward adds the residual",
            ("return self.cross_attn(x", "return x + self.cross_attn(x"),
        ),
        (
            "keys and values are exchanged",
            ("self.cross_attn(x, keys, values, mask)", "self.cross_attn(x, values, keys, mask)"),
        ),
        (
            "beams look at another utterance's memory: rows of one utterance stand next to each other, so "
            "repeat_interleave, not repeat",
            ("keys = keys.repeat_interleave(beams, 0)", "keys = keys.repeat(beams, 1, 1, 1)"),
            (
                "values = values.repeat_interleave(beams, 0)",
                "values = values.repeat(beams, 1, 1, 1)",
            ),
            ("mask = mask.repeat_interleave(beams, 0)", "mask = mask.repeat(beams, 1, 1, 1)"),
        ),
        (
            "the cross-attention is missing in forward",
            ("x = post[1](x + self.attend_memory(pre[1](x), memory, memory_mask))", "pass"),
        ),
        (
            "the residual around the cross-attention is missing",
            ("post[1](x + self.attend_memory", "post[1](self.attend_memory"),
        ),
        (
            "the residual around the self-attention is missing",
            ("post[0](x + self.attend_past", "post[0](self.attend_past"),
        ),
        ("the residual around the MLP is missing", ("post[2](x + self.mlp", "post[2](self.mlp")),
        (
            "the cross-attention comes before the self-attention",
            ("        x = post[0](x + self.attend_past(pre[0](x), cache))\n", ""),
            (
                "        x = post[2](x",
                "        x = post[0](x + self.attend_past(pre[0](x), cache))\n        x = post[2](x",
            ),
        ),
        (
            "pre-norm and post-norm are exchanged",
            (
                "norms if self.pre_norm else nothing",
                "norms if not self.pre_norm else nothing",
            ),
            ("nothing if self.pre_norm", "nothing if not self.pre_norm"),
        ),
        (
            "the norms of self-attention and cross-attention are exchanged",
            (
                "norms = (self.self_attn_norm, self.cross_attn_norm",
                "norms = (self.cross_attn_norm, self.self_attn_norm",
            ),
        ),
        ("the memory's mask is not passed on", ("memory, memory_mask))", "memory, None))")),
        (
            "the cache is not passed on: the past is forgotten",
            ("attend_past(pre[0](x), cache)", "attend_past(pre[0](x), None)"),
        ),
        ("the MLP is missing", ("x = post[2](x + self.mlp(pre[2](x)))", "pass")),
    ],
    "ex10": [
        (
            "the labels are not shifted: the decoder would read what it is to predict",
            ("torch.roll(labels, 1, dims=1)", "labels.clone()"),
            ("    shifted[:, 0] = start\n", ""),
        ),
        (
            "the labels are shifted to the left: the decoder would read the future",
            (
                "torch.roll(labels, 1, dims=1)\n    shifted[:, 0] = start",
                "torch.roll(labels, -1, dims=1)\n    shifted[:, -1] = start",
            ),
        ),
        (
            "the first label is overwritten: shift first",
            ("torch.roll(labels, 1, dims=1)", "labels.clone()"),
        ),
        (
            "the start token is missing: the last label came round to the front",
            ("    shifted[:, 0] = start\n", ""),
        ),
        (
            "the sequence starts with pad: it starts with the start token",
            ("shifted[:, 0] = start", "shifted[:, 0] = pad"),
        ),
        (
            "-100 is left in, and no embedding has that row: put pad there",
            ("    shifted[shifted == -100] = pad\n", ""),
        ),
        ("IGNORED becomes the start token: it becomes pad", ("== -100] = pad", "== -100] = start")),
        (
            "the result is one longer than the labels: the last label is never read",
            ("return shifted", "return torch.cat([shifted, labels[:, -1:].clamp(min=pad)], 1)"),
        ),
        (
            "the labels are shifted twice",
            (
                "torch.roll(labels, 1, dims=1)\n    shifted[:, 0] = start",
                "torch.roll(labels, 2, dims=1)\n    shifted[:, :2] = start",
            ),
        ),
        (
            "the sum is divided by all labels: divide by those that count",
            ("max(1, int(counts.sum()))", "labels.numel()"),
        ),
        (
            "labels that are ignored count as token 0",
            ("counts = labels != -100", "counts = labels > -999"),
        ),
        (
            "the loss is not divided: it is a mean over the labels that count",
            ("return loss / max(1, int(counts.sum()))", "return loss"),
        ),
        (
            "the mean is taken in each row first: one mean over all labels of the batch",
            (
                "return loss / max(1, int(counts.sum()))",
                "return -((chosen * counts).sum(1) / counts.sum(1).clamp(min=1)).mean()",
            ),
        ),
        (
            "if all labels are ignored the loss is NaN: it is 0",
            ("max(1, int(counts.sum()))", "counts.sum()"),
        ),
        (
            "the logits are not normalised: take log_softmax",
            ("torch.log_softmax(logits, dim=-1)", "logits"),
        ),
        (
            "the softmax goes over time: it goes over the vocabulary, the last dimension",
            ("dim=-1)", "dim=1)"),
        ),
        ("the loss has the wrong sign", ("loss = -(", "loss = (")),
        (
            "probabilities are summed: sum log-probabilities",
            ("torch.log_softmax(logits, dim=-1)", "torch.softmax(logits, dim=-1)"),
        ),
        (
            "labels are shifted again inside the loss: logits and labels stand in the same place already",
            (
                "logprobs = torch.log_softmax(logits, dim=-1)",
                "logprobs = torch.log_softmax(logits, dim=-1)[:, :-1]\n    labels = labels[:, 1:]",
            ),
        ),
        (
            "the logarithm is to base 2: take the natural one",
            ("return loss /", "return loss / 0.6931471805599453 /"),
        ),
    ],
    "ex11": [
        (
            "new ones always go to the start of the buffer: they go behind the length stored before",
            (
                "start, end = self.length, self.length + keys.shape[2]",
                "start, end = 0, keys.shape[2]",
            ),
        ),
        (
            "length is not updated: the next ones overwrite these",
            ("        self.length = end\n", ""),
        ),
        (
            "only the new ones come back: attention needs all that are filled",
            ("return self.keys[:, :, :end], self.values[:, :, :end]", "return keys, values"),
        ),
        (
            "the past without the new ones comes back: slice after length has grown",
            (
                "return self.keys[:, :, :end], self.values[:, :, :end]",
                "return self.keys[:, :, :start], self.values[:, :, :start]",
            ),
        ),
        (
            "length grows by 1: it grows by the number of new tokens",
            ("        self.length = end\n", "        self.length = start + 1\n"),
        ),
        (
            "values are never stored: keys stand in both",
            ("self.values[:, :, start:end] = values", "self.values[:, :, start:end] = keys"),
        ),
        (
            "all tokens are read again in each step, and stored twice: give the decoder the new ones only",
            ("tokens[:, self.cache[0].length :]", "tokens"),
        ),
        (
            "only the last token is read, though more may be new",
            ("tokens[:, self.cache[0].length :]", "tokens[:, -1:]"),
        ),
        (
            "the cache is not used: the decoder forgets the past",
            (
                "self.decoder(new, self.memory, self.mask, self.cache)",
                "self.decoder(new, self.memory, self.mask)",
            ),
        ),
        (
            "the memory's mask is not passed on",
            ("self.memory, self.mask, self.cache", "self.memory, None, self.cache"),
        ),
        (
            "the cache is not reordered: rows changed places, and keys and values did not",
            ("if parents is not None", "if False"),
        ),
        (
            "only the first block's cache is reordered: each block has one",
            ("for cache in self.cache:", "for cache in self.cache[:1]:"),
        ),
        (
            "the cache is reordered after the decoder has read it: do that first",
            (
                "        if parents is not None:\n            for cache in self.cache:\n "
                "               cache.reorder(parents)\n",
                "",
            ),
            (
                "        return logits[:, -1].float()",
                "        if parents is not None:\n            for cache in self.cache:\n "
                "               cache.reorder(parents)\n        return logits[:, -1].float()",
            ),
        ),
        (
            "the logits of the first new token come back: the last one's are wanted",
            ("logits[:, -1].float()", "logits[:, 0].float()"),
        ),
        (
            "the logits of all new tokens come back: the last one's are wanted, (R, V)",
            ("logits[:, -1].float()", "logits.float()"),
        ),
        (
            "a row goes on after its EOS: it gets pads from there",
            ("done[r] = True", "done[r] = done[r] or len(rows[r]) == config.max_total_length"),
        ),
        (
            "all rows stop when the first has its EOS: wait for all",
            ("not all(done)", "not any(done)"),
        ),
        (
            "a finished row is filled with EOS: fill it with pad",
            ("rows[r].append(pad)", "rows[r].append(config.eos_ids[0])"),
        ),
        ("raw logits are added up: take log_softmax", ("logits.log_softmax(1)", "logits")),
        (
            "probabilities are added up: sum log-probabilities",
            ("logits.log_softmax(1)", "logits.softmax(1)"),
        ),
        (
            "the score is not divided by the length",
            ("sum(row) / length**config.length_penalty", "sum(row)"),
        ),
        (
            "length_penalty is a factor: it is the exponent of the length",
            ("length**config.length_penalty", "(length * config.length_penalty)"),
        ),
        (
            "the length counts pads: count up to EOS",
            ("zip(logprobs, lengths)", "zip(logprobs, map(len, logprobs))"),
        ),
        (
            "the length counts the start token",
            ("sum(row) / length**", "sum(row) / (length + 1) **"),
        ),
        (
            "the length does not count EOS",
            (
                "            lengths[r] += 1\n            if token in config.eos_ids:\n",
                "            lengths[r] += token not in config.eos_ids\n            if "
                "token in config.eos_ids:\n",
            ),
        ),
        (
            "pads have a log-probability: behind EOS it is 0",
            ("logprobs[r].append(0.0)", "logprobs[r].append(float(scores[r, pad]))"),
        ),
        (
            "the start token is missing in the result",
            ("Generated(torch.tensor(rows)", "Generated(torch.tensor(rows)[:, 1:]"),
        ),
        (
            "the result is one token too long: config.max_total_length counts the start token",
            (
                "while len(rows[0]) < config.max_total_length",
                "while len(rows[0]) <= config.max_total_length",
            ),
        ),
        (
            "process_logits is not called: min_length and bans have no effect",
            (
                "process_logits(next_logits(tokens, None), tokens, config)",
                "next_logits(tokens, None)",
            ),
        ),
    ],
    "ex12": [
        (
            "only keys are reordered: values go with them",
            ("        self.values[:] = self.values.index_select(0, rows)\n", ""),
        ),
        (
            "only values are reordered: keys go with them",
            ("        self.keys[:] = self.keys.index_select(0, rows)\n", ""),
        ),
        (
            "rows go the wrong way: row i gets what row rows[i] had",
            ("self.keys.index_select(0, rows)", "self.keys.index_copy(0, rows, self.keys.clone())"),
            (
                "self.values.index_select(0, rows)",
                "self.values.index_copy(0, rows, self.values.clone())",
            ),
        ),
        (
            "rows are copied one after the other in place, so that a row is read after it was overwritten",
            (
                "self.keys[:] = self.keys.index_select(0, rows)",
                "for i in range(len(rows)):\n            self.keys[i] = self.keys[rows[i]]",
            ),
            (
                "self.values[:] = self.values.index_select(0, rows)",
                "for i in range(len(rows)):\n            self.values[i] = self.values[rows[i]]",
            ),
        ),
        (
            "raw logits are added up: take log_softmax",
            ("torch.log_softmax(logits, dim=1)", "logits"),
        ),
        (
            "probabilities are added up: sum log-probabilities",
            ("torch.log_softmax(logits, dim=1)", "torch.softmax(logits, dim=1)"),
        ),
        (
            "only the last log-probability counts: add the score of the beam",
            ("running.scores[:, :, None] + logprobs", "logprobs"),
        ),
        (
            "there are K candidates: if some of them end, fewer than K run on, so take 2 K",
            ("count = max(2, 1 + len(config.eos_ids)) * K", "count = K"),
        ),
        (
            "parent and token are exchanged: index // V is the beam, index % V the token",
            ("index // V, index % V", "index % V % K, index // V"),
        ),
        (
            "each beam keeps its own best two: the best 2 K of all beams together are wanted",
            (
                "scores, index = torch.sort(totals.reshape(B, -1), dim=1, descending=True, stable=True)",
                "two, place = totals.topk(2)\n    place = (place + torch.arange(K)[:, "
                "None] * V).reshape(B, -1)\n    "
                "scores, order = two.reshape(B, -1).sort(descending=True)\n    index = "
                "place.gather(1, order)",
            ),
        ),
        (
            "all utterances compete with each other: each keeps its own 2 K",
            (
                "totals = running.scores[:, :, None] + logprobs",
                "totals = running.scores[:, :, None] + logprobs\n    totals = totals.flip(0)",
            ),
        ),
        (
            "the score is divided by the length here: only what has ended is",
            (
                "return Beams(tokens, chosen, scores, ended)",
                "return Beams(tokens, chosen, scores / T, ended)",
            ),
        ),
        ("EOS does not end a beam", ("ended |= token == eos", "pass")),
        (
            "config.max_total_length does not end a beam: there it ends without an EOS",
            ("if T + 1 == config.max_total_length", "if False"),
        ),
        (
            "beams end one token too early: config.max_total_length is a length, start token included",
            (
                "if T + 1 == config.max_total_length",
                "if T + 1 >= config.max_total_length - 1 or T + 5 == config.max_total_length - 1",
            ),
        ),
        (
            "the score is not divided by the length",
            ("score / length**config.length_penalty, *rest", "score, *rest"),
        ),
        (
            "the score is multiplied by the length: divide",
            (
                "score / length**config.length_penalty, *rest",
                "score * length**config.length_penalty, *rest",
            ),
        ),
        (
            "the length counts the start token",
            ("length = tokens.shape[1]\n", "length = tokens.shape[1] + 1\n"),
        ),
        (
            "the length does not count EOS",
            (
                "score / length**config.length_penalty, *rest",
                "score / max(1, length - (rest[0][-1] in config.eos_ids)) ** config.length_penalty, *rest",
            ),
        ),
        (
            "the search of an utterance stops at the first EOS: K must have ended",
            ("full = len(finished[b]) == K", "full = len(finished[b]) >= 1"),
        ),
        (
            "beams run on behind their EOS: what ended leaves the beam",
            ("if not ended[c]][:K]", "if True][:K]"),
        ),
        (
            "next_logits is not told the parents: its cache is not reordered",
            ("next_logits(tokens, parents)", "next_logits(tokens, None)"),
        ),
        (
            "parents count beams of their utterance: add b * K, the rows of the utterances before",
            (
                "parents += [int(source[b, c]) + b * K for c in onward]",
                "parents += [int(source[b, c]) for c in onward]",
            ),
        ),
        (
            "all K beams start with score 0, so they stay copies of each other: "
            "only the first counts (initial_beams)",
            ("[IMPOSSIBLE] * (K - 1)", "[0.0] * (K - 1)"),
        ),
        (
            "candidates behind the first K may end, too: only among the first K",
            ("            for c in range(K):\n", "            for c in range(len(candidates)):\n"),
        ),
        (
            "early_stopping is not looked at",
            ("if full and config.early_stopping is True", "if False"),
        ),
        (
            "it always stops early: without early_stopping go on while a running beam may win",
            ("if full and config.early_stopping is True", "if full"),
        ),
        (
            "the search always goes on to config.max_total_length: stop when nothing that runs can win",
            ("best <= finished[b][-1][0]", "False"),
        ),
        (
            "what runs is compared without dividing by the length",
            ("best = running[b][0][0] / length**config.length_penalty", "best = running[b][0][0]"),
        ),
        (
            "hypotheses that reach config.max_total_length without EOS are lost",
            (
                "if ended[c] and candidates",
                "if ended[c] and candidates[c][1][-1] in config.eos_ids and candidates",
            ),
        ),
        (
            "one hypothesis comes back for each utterance: return num_return_sequences",
            ("items[: config.num_return_sequences]", "items[:1]"),
        ),
        (
            "all K hypotheses come back: return num_return_sequences of them",
            ("items[: config.num_return_sequences]", "items"),
        ),
        (
            "the worst hypotheses come first",
            (
                "for item in items[: config.num_return_sequences]",
                "for item in items[::-1][: config.num_return_sequences]",
            ),
        ),
        (
            "shorter sequences are filled with EOS: fill with pad",
            ("[fill] * (longest", "[config.eos_ids[0]] * (longest"),
        ),
    ],
    "ex13": [
        (
            "diagonal steps are missing: a step may go to the next token and the next frame at once",
            (
                "[(t - 1, s - 1), (t - 1, s), (t, s - 1)]",
                "[(t - 1, s), (t, s - 1)] if t + s else [(-1, -1)]",
            ),
        ),
        (
            "a token cannot last longer than a frame: steps to the next frame are missing",
            (
                "[(t - 1, s - 1), (t - 1, s), (t, s - 1)]",
                "[(t - 1, s - 1), (t - 1, s)] if t else [(t - 1, s - 1), (t, s - 1)]",
            ),
        ),
        (
            "two tokens cannot share a frame: steps to the next token are missing",
            (
                "[(t - 1, s - 1), (t - 1, s), (t, s - 1)]",
                "[(t - 1, s - 1), (t, s - 1)] if s else [(t - 1, s - 1), (t - 1, s)]",
            ),
        ),
        ("the path is backwards: turn it round at the end", ("path[::-1]", "path")),
        (
            "rows are (frame, token): (token, frame) is wanted",
            ("np.array(path[::-1])", "np.array(path[::-1])[:, ::-1]"),
        ),
        (
            "the path ends at the best frame of the last token: it ends at the last frame",
            (
                "cell, path = (T - 1, S - 1), []",
                "cell, path = (T - 1, min(range(S), key=lambda s: total[T - 1, s])), []",
            ),
        ),
        (
            "each cell takes the cheapest neighbour's own cost: take the cheapest way to it",
            ("cost[t, s] + total[cheapest]", "cost[t, s]"),
        ),
        ("the dearest path is found: take the smallest sum", ("min(ways, key", "max(ways, key")),
        (
            "the first cell is missing in the path",
            ("np.array(path[::-1])", "np.array(path[::-1][1:]).reshape(-1, 2)"),
        ),
        (
            "the last cell is missing in the path",
            ("np.array(path[::-1])", "np.array(path[:0:-1]).reshape(-1, 2)"),
        ),
        (
            "of equal ways the diagonal one is not preferred",
            (
                "[(t - 1, s - 1), (t - 1, s), (t, s - 1)]",
                "[(t, s - 1), (t - 1, s), (t - 1, s - 1)]",
            ),
        ),
        (
            "each token takes its cheapest frame, whatever the order: the path never goes back",
            ("return np.array(path[::-1])", "return np.stack([np.arange(T), cost.argmin(1)], 1)"),
        ),
        (
            "the way costs nothing but its last row: the sum is lost at a new token",
            (
                "cost[t, s] + total[cheapest]",
                "cost[t, s] + (total[cheapest] if cheapest[0] == t else 0.0)",
            ),
        ),
    ],
    "ex14": [
        (
            "transpose is not done",
            ("        value = value.t()\n", "        value = value.reshape(shape)\n"),
        ),
        (
            "a fused tensor is cut before it is transposed: transpose first, then cut rows",
            (
                "        parts.append(value[first : first + len(part)])\n",
                "        parts.append(value.t().reshape(shape)[first : first + len(part)])\n",
            ),
        ),
        (
            "a fused tensor is cut interleaved: q, k and v stand one behind the other",
            ("value[first : first + len(part)]", "value[first // len(part) :: len(ours)]"),
        ),
        (
            "q, k and v come in the wrong order",
            ("return tuple(parts)", "return tuple(parts[::-1])"),
        ),
        (
            "a tensor of another shape is taken without a word: raise a ValueError",
            (
                "list(value.shape) != list(expected)",
                "value.numel() != sum(part.numel() for part in ours)",
            ),
            ("value.t()", "value.t()\n    else:\n        value = value.reshape(shape)"),
        ),
        (
            "whole numbers are taken without a word: raise a ValueError",
            ("not value.is_floating_point()", "False"),
        ),
        (
            "a list comes back in place of one tensor: a tuple with all parts is wanted, even if it is one",
            ("return tuple(parts)", "return tuple(parts) if len(parts) > 1 else parts[0]"),
        ),
        (
            "a missing tensor is passed over in silence (strict=False): raise a ValueError that names it",
            ("name not in filled and name not in may_lack", "False"),
        ),
        (
            "an unknown tensor is passed over in silence (strict=False): raise a ValueError that names it",
            ("if name not in read and not covered", "if False"),
        ),
        (
            "an alias with other values is taken without a word: two tensors for one must be equal",
            ('elif "alias" not in words or not equal(filled[name], part):', "elif False:"),
        ),
        (
            "any second tensor is refused: an alias that is equal may stand beside the first",
            ('elif "alias" not in words or not equal(filled[name], part):', "else:"),
        ),
        (
            "a tensor that only its alias holds is missing: the alias fills in",
            (
                "        if right not in theirs:",
                '        if right not in theirs or "alias" in words:',
            ),
            ("if name not in read and", 'if name != "lm_head.weight" and name not in read and'),
        ),
        (
            "optional tensors are demanded: they may be absent",
            ('if "optional" in words', "if False"),
        ),
        (
            "rows with drop do not count: what they name may be there, and is not read",
            ('words & {"drop", "optional"}', 'words & {"optional"}'),
        ),
        (
            "an older name (legacy) is not read",
            (
                "        if right not in theirs:",
                '        if right not in theirs or "legacy" in words:',
            ),
        ),
        (
            "an optional tensor that is there is not filled in",
            (
                "            may_lack.update(names)\n",
                "            may_lack.update(names)\n            continue\n",
            ),
        ),
        (
            "names of theirs are kept: the result has ours",
            (
                "    return filled\n",
                "    return {right: filled[names[0]] for names, right, _ in "
                "match_rows(rows, ours) if names[0] in filled}\n",
            ),
        ),
    ],
}
