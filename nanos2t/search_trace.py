"""A record of everything that a search looked at, for pictures and for debugging."""

from typing import NamedTuple

from torch import Tensor

from nanos2t.beams import Beams


class Candidate(NamedTuple):
    """A continuation of a beam by one token, and what became of it."""

    step: int  # 1 for the token after the start token
    row: int  # the utterance in the batch
    parent: int  # the beam that it continues
    beam: int | None  # the beam that it becomes, None unless its status is "kept"
    token: int
    logprob: float  # log-probability of the token
    sum: float  # sum of the log-probabilities of all its tokens
    score: float  # sum / step ** length_penalty, which counts if it ends here
    status: str  # "kept": a running beam of the next step; "finished": ended; or "dropped"


def record_candidates(
    trace: list[Candidate],
    candidates: Beams,
    parent_beams: Tensor,
    kept: Tensor,
    is_searching: Tensor,
    utterances: Tensor,
    length_penalty: float,
) -> None:
    """Append all candidates of a step to `trace`, the best of each utterance first.

    parent_beams: (B, C), the beams that they continue. kept: (B, K), the candidates that become the
    next running beams. is_searching: (B,), False for utterances whose search is over. utterances:
    (B,), their places in the batch, of which others may have left.
    """
    step = candidates.tokens.shape[2] - 1
    num_beams = kept.shape[1]
    tokens = candidates.tokens[:, :, -1]  # (B, C)
    logprobs = candidates.logprobs[:, :, -1]  # (B, C)
    scores = candidates.scores / step**length_penalty  # (B, C)

    # An utterance whose search is over has no more candidates that count.
    for row in is_searching.nonzero().flatten().tolist():
        kept_places = kept[row].tolist()
        for place, parent in enumerate(parent_beams[row].tolist()):
            beam = None
            status = "dropped"
            if candidates.ended[row, place]:
                # Only the best num_beams candidates may finish.
                if place < num_beams:
                    status = "finished"
            elif place in kept_places:
                beam = kept_places.index(place)
                status = "kept"
            trace.append(
                Candidate(
                    step=step,
                    row=utterances[row].item(),
                    parent=parent,
                    beam=beam,
                    token=tokens[row, place].item(),
                    logprob=logprobs[row, place].item(),
                    sum=candidates.scores[row, place].item(),
                    score=scores[row, place].item(),
                    status=status,
                )
            )
