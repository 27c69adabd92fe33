"""How good a model in training is: its loss and its share of exact texts on held-out examples.

B clips, T tokens. `nanos2t eval` measures finished models: see evaluation.py.
"""

import torch
from torch import Tensor

from nanos2t.generate import decode_memory
from nanos2t.model import IGNORED, Output
from nanos2t.training.config import TrainConfig
from nanos2t.training.dataset import dev_loader
from nanos2t.training.distributed import all_reduce_sum, rank, world_size
from nanos2t.training.examples import Example, count_labels
from nanos2t.training.losses import cross_entropy
from nanos2t.transcription.hypotheses import trim_after_eos
from nanos2t.transcription.transcriber import SpeechToText


@torch.no_grad()
def validate(stt: SpeechToText, examples: list[Example], config: TrainConfig) -> dict[str, float]:
    """Return "dev_loss", the mean loss of a label, and "exact" if that selects the best model.

    "exact" is the share of texts that greedy search gets exactly right. Raises ValueError for a
    recording that cannot be decoded.
    """
    # Each process takes its share of the batches. A sharded model computes nothing alone: all take
    # all.
    if config.shard:
        batches = dev_loader(stt, examples, config, 0, 1)
    else:
        batches = dev_loader(stt, examples, config, rank(), world_size())

    weight = stt.model.decoder.embed.tokens.weight
    loss_sum = 0.0
    num_exact = 0
    for batch in batches:
        for reason in batch.damaged.values():
            raise ValueError(reason)
        input_values = batch.input_values.to(weight.device, weight.dtype)
        attention_mask = batch.attention_mask.to(weight.device)
        decoder_input_ids = batch.decoder_input_ids.to(weight.device)
        labels = batch.labels.to(weight.device)

        # The loss is that of the right text as decoder input; greedy search has to find the text.
        output = stt.model(input_values, attention_mask, None, decoder_input_ids)
        loss_sum += cross_entropy(output.logits, labels).item()
        if config.best == "exact":
            num_exact += count_exact(stt, output, decoder_input_ids, labels)

    # A mean over the labels and texts of all processes
    if not config.shard:
        loss_sum, num_exact = all_reduce_sum(loss_sum, num_exact)
    metrics = {"dev_loss": round(loss_sum / count_labels(examples), 6)}
    if config.best == "exact":
        metrics["exact"] = num_exact / len(examples)
    return metrics


def count_exact(
    stt: SpeechToText, output: Output, decoder_input_ids: Tensor, labels: Tensor
) -> int:
    """Return how many texts greedy search decodes exactly right.

    `decoder_input_ids` and `labels`: (B, T), with the same forced tokens in all rows.
    """
    options = {"num_beams": 1}
    num_start_tokens = 1
    if labels[0, 0] == IGNORED:  # a forced token comes after the start token
        options["forced_bos_token_id"] = int(decoder_input_ids[0, 1])
        num_start_tokens = 2

    # The encoding is at hand: only the decoder runs again.
    decoded = decode_memory(stt.model, output.memory, output.frame_lengths, options)
    num_exact = 0
    for row, label_row in zip(decoded.sequences.tolist(), labels):
        tokens = trim_after_eos(row, stt.model.generation.eos_ids)
        text = stt.decode_tokens(tokens[num_start_tokens:])
        expected = stt.decode_tokens(label_row[label_row != IGNORED].tolist())
        if text == expected:
            num_exact += 1
    return num_exact
