"""Hypotheses of a beam search as tensors.

Shapes: B utterances, K beams (hypotheses) of each, C other hypotheses of each, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Lower than any sum of log-probabilities, as in transformers. It is finite, so that a softmax over
# such scores is not NaN. Usual scores vanish in it: what is demoted in float32 is equal afterwards.
IMPOSSIBLE = -1e9


@dataclass
class Beams:
    """Hypotheses of each utterance: the running ones, the candidates, or the finished ones."""

    tokens: Tensor  # (B, K, T), the start token first
    logprobs: Tensor  # (B, K, T - 1), one for each token but the start token; NaN for padding
    scores: Tensor  # (B, K)
    ended: Tensor  # (B, K), bool

    def select(self, index: Tensor) -> "Beams":
        """Return the hypotheses at the places `index` (B, C) of each utterance."""
        token_index = index[:, :, None]  # (B, C, 1)
        tokens = self.tokens.take_along_dim(token_index, dim=1)  # (B, C, T)
        logprobs = self.logprobs.take_along_dim(token_index, dim=1)  # (B, C, T - 1)
        scores = self.scores.gather(1, index)  # (B, C)
        ended = self.ended.gather(1, index)  # (B, C)
        return Beams(tokens, logprobs, scores, ended)

    def keep(self, utterances: Tensor) -> "Beams":
        """Return the hypotheses of these utterances (C,) only."""
        return Beams(
            self.tokens[utterances],  # (C, K, T)
            self.logprobs[utterances],  # (C, K, T - 1)
            self.scores[utterances],  # (C, K)
            self.ended[utterances],  # (C, K)
        )

    def replace(self, utterances: Tensor, others: "Beams") -> None:
        """Put the hypotheses `others` (C, K, T) in the place of those of these utterances (C,)."""
        self.tokens[utterances] = others.tokens
        self.logprobs[utterances] = others.logprobs
        self.scores[utterances] = others.scores
        self.ended[utterances] = others.ended

    def append(self, token: Tensor, logprob: Tensor, scores: Tensor, ended: Tensor) -> "Beams":
        """Return these hypotheses with one more token each; every argument is (B, K)."""
        tokens = torch.cat([self.tokens, token[:, :, None]], dim=2)  # (B, K, T + 1)
        logprobs = torch.cat([self.logprobs, logprob[:, :, None]], dim=2)  # (B, K, T)
        return Beams(tokens, logprobs, scores, ended)

    def pad(self, pad_id: int) -> "Beams":
        """Return these hypotheses, padded by one token."""
        # NaN marks the log-probabilities of padding.
        tokens = F.pad(self.tokens, (0, 1), value=pad_id)  # (B, K, T + 1)
        logprobs = F.pad(self.logprobs, (0, 1), value=torch.nan)  # (B, K, T)
        return Beams(tokens, logprobs, self.scores.clone(), self.ended.clone())

    def merge(self, others: "Beams") -> "Beams":
        """Return these hypotheses, and then C others of each utterance."""
        tokens = torch.cat([self.tokens, others.tokens], dim=1)  # (B, K + C, T)
        logprobs = torch.cat([self.logprobs, others.logprobs], dim=1)  # (B, K + C, T - 1)
        scores = torch.cat([self.scores, others.scores], dim=1)  # (B, K + C)
        ended = torch.cat([self.ended, others.ended], dim=1)  # (B, K + C)
        return Beams(tokens, logprobs, scores, ended)


def initial_beams(start: Tensor, num_beams: int) -> tuple[Beams, Beams]:
    """Return the running and the finished beams of a search that begins with `start` (B, 1)."""
    B = len(start)
    tokens = start[:, None, :].expand(-1, num_beams, -1)  # (B, K, 1)
    no_logprobs = torch.zeros(B, num_beams, 0, device=start.device)  # (B, K, 0)
    ended = torch.zeros(B, num_beams, dtype=torch.bool, device=start.device)  # (B, K)

    # Nothing has finished yet: any real hypothesis is better than these places.
    impossible = torch.full((B, num_beams), IMPOSSIBLE, device=start.device)  # (B, K)
    finished = Beams(tokens, no_logprobs, impossible, ended)

    # All running beams are the same at first. Only the first one counts, or all would stay copies.
    scores = impossible.clone()
    scores[:, 0] = 0.0
    running = Beams(tokens, no_logprobs, scores, ended)
    return running, finished


def demote(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores that rank below all others where `mask` is True."""
    return torch.where(mask, scores + IMPOSSIBLE, scores)
