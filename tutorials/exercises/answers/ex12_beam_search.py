import torch

from nanos2t.beams import IMPOSSIBLE, Beams
from nanos2t.generate import Generated
from nanos2t.logits_processing import process_logits


class KVCache:
    def reorder(self, rows):
        self.keys = self.keys.index_select(0, rows)
        self.values = self.values.index_select(0, rows)


def best_continuations(running, logits, config):
    B, K, T = running.tokens.shape
    V = logits.shape[1]
    count = max(2, 1 + len(config.eos_ids)) * K
    logprobs = torch.log_softmax(logits, dim=1)
    logprobs = process_logits(logprobs, running.tokens.reshape(B * K, T), config).view(B, K, V)
    totals = running.scores[:, :, None] + logprobs
    scores, index = torch.sort(totals.reshape(B, -1), dim=1, descending=True, stable=True)
    scores, index = scores[:, :count], index[:, :count]
    parents, token = index // V, index % V
    rows = torch.arange(B)[:, None]
    chosen = logprobs[rows, parents, token]
    tokens = torch.cat([running.tokens[rows, parents], token[:, :, None]], 2)
    chosen = torch.cat([running.logprobs[rows, parents], chosen[:, :, None]], 2)
    ended = torch.zeros_like(token, dtype=torch.bool)
    for eos in config.eos_ids:
        ended |= token == eos
    if config.max_total_length == T + 1:
        ended[:] = True
    return Beams(tokens, chosen, scores, ended), parents


def beam_search(next_logits, start, config, trace=None):
    B, K = len(start), config.num_beams
    fill = config.pad_token_id or (config.eos_ids[0] if config.eos_ids else 0)
    seeds = [0.0] + [IMPOSSIBLE] * (K - 1)
    running = [
        [(seeds[k], row, []) for k in range(K)] for row in start.tolist()
    ]  # (score, tokens, logprobs)
    finished = [[] for _ in range(B)]
    open_ = [True] * B
    parents = None
    while any(open_):
        tokens = torch.tensor([item[1] for beams in running for item in beams])
        logits = next_logits(tokens, parents)
        beams = Beams(
            tokens.view(B, K, -1),
            torch.tensor([[item[2] for item in beams] for beams in running]),
            torch.tensor([[item[0] for item in beams] for beams in running]),
            torch.zeros(B, K, dtype=torch.bool),
        )
        new, source = best_continuations(beams, logits, config)
        length = tokens.shape[1]
        parents = []
        for b in range(B):
            candidates = list(
                zip(*(part[b].tolist() for part in (new.scores, new.tokens, new.logprobs)))
            )
            ended = new.ended[b].tolist()
            onward = [c for c in range(len(candidates)) if not ended[c]][:K]
            onward = onward or list(range(K))
            running[b] = [candidates[c] for c in onward]
            parents += [int(source[b, c]) + b * K for c in onward]
            if not open_[b]:
                continue
            for c in range(K):
                if ended[c] and candidates[c][0] > IMPOSSIBLE / 2:
                    score, *rest = candidates[c]
                    finished[b].append((score / length**config.length_penalty, *rest))
            finished[b] = sorted(finished[b], key=lambda item: -item[0])[:K]
            full = len(finished[b]) == K
            best = running[b][0][0] / length**config.length_penalty
            if full and config.early_stopping is True:
                open_[b] = False
            if full and best <= finished[b][-1][0]:
                open_[b] = False
            if all(ended):
                open_[b] = False
        parents = torch.tensor(parents)
    hypotheses = [item for items in finished for item in items[: config.num_return_sequences]]
    longest = max(len(item[1]) for item in hypotheses)
    sequences = [item[1] + [fill] * (longest - len(item[1])) for item in hypotheses]
    logprobs = [item[2] + [0.0] * (longest - len(item[1])) for item in hypotheses]
    return Generated(
        torch.tensor(sequences),
        torch.tensor([item[0] for item in hypotheses]),
        torch.tensor(logprobs),
    )
