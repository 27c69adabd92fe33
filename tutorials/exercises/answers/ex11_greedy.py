import torch

from nanos2t.generate import Generated
from nanos2t.logits_processing import process_logits


class KVCache:
    def append(self, keys, values):
        start, end = self.length, self.length + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class DecoderSession:
    def __call__(self, tokens, parent_rows):
        if parent_rows is not None:
            for cache in self.caches:
                cache.reorder(parent_rows)
            self.keep_utterances(parent_rows)
        new_tokens = tokens[:, self.caches[0].length :]
        logits = self.decoder(new_tokens, self.cross_keys_values, self.memory_mask, self.caches)
        return logits[:, -1].float()


def greedy_search(next_logits, start, config, trace=None):
    rows = start.tolist()
    logprobs = [[] for _ in rows]
    done = [False for _ in rows]
    lengths = [0 for _ in rows]
    pad = (
        config.eos_ids[0] if config.pad_token_id is None and config.eos_ids else config.pad_token_id
    )
    while len(rows[0]) < config.max_total_length and not all(done):
        tokens = torch.tensor(rows)
        logits = process_logits(next_logits(tokens, None), tokens, config)
        scores = logits.log_softmax(1)
        for r in range(len(rows)):
            token = int(scores[r].argmax())
            if done[r]:
                rows[r].append(pad)
                logprobs[r].append(0.0)
                continue
            rows[r].append(token)
            logprobs[r].append(float(scores[r, token]))
            lengths[r] += 1
            if token in config.eos_ids:
                done[r] = True
    totals = [sum(row) / length**config.length_penalty for row, length in zip(logprobs, lengths)]
    return Generated(torch.tensor(rows), torch.tensor(totals), torch.tensor(logprobs))
