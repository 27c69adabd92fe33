"""What training minimises: cross-entropy of the decoder's labels and, optionally, CTC.

B clips, L samples, S frames of the encoding, K texts of a clip, T tokens of a text, N of a CTC
text, V vocab_size. All losses are sums: LossStream divides them by the labels of the whole step.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.training.config import TrainConfig


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the sum over labels (B, T) that are not IGNORED, for logits (B, T, V)."""
    return F.cross_entropy(
        logits.flatten(0, 1),  # (B * T, V)
        labels.flatten(),  # (B * T,)
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def ctc_loss(logits: Tensor, frame_lengths: Tensor, ctc_labels: Tensor, blank: int) -> Tensor:
    """Return the sum of -log p(ctc_labels (B, N) | logits (B, S, V)), over all alignments.

    Graves et al. 2006. A clip that has too few frames for its text, as a faster speed may leave it,
    adds 0.
    """
    log_probs = logits.float().log_softmax(2)  # (B, S, V)
    label_lengths = (ctc_labels != IGNORED).sum(1)  # (B,)
    return F.ctc_loss(
        log_probs.transpose(0, 1),  # (S, B, V)
        ctc_labels.clamp(min=0),
        frame_lengths,
        label_lengths,
        blank,
        reduction="sum",
        zero_infinity=True,
    )


class TrainingModule(nn.Module):
    """The model with its loss. CTC adds an output layer on the encoding, not saved with the model.

    CTC helps the encoder to find where the words are (joint training with attention: Watanabe et
    al. 2017).
    """

    def __init__(self, model: SpeechEncoderDecoder, config: TrainConfig):
        super().__init__()
        self.model = model
        self.config = config
        self.ctc = None
        if config.ctc:
            decoder = model.decoder.config
            dtype = model.encoder.norm.weight.dtype
            self.ctc = nn.Linear(decoder.hidden_size, decoder.vocab_size, dtype=dtype)

        # Weights that are views of a checkpoint's tensor (GPT-2 has one for queries, keys and
        # values) get memory of their own, as create_optimizer asks for.
        for weight in self.parameters():
            weight.data = weight.data.contiguous()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None,
        mask_time_indices: Tensor | None,
        decoder_input_ids: Tensor,
        labels: Tensor,
        ctc_labels: Tensor,
    ) -> Tensor:
        """Return the loss of a dataset.Batch, summed over its labels.

        `input_values` and `attention_mask`: (B, L). `mask_time_indices`: (B, S) bool, frames to
        mask. `decoder_input_ids` and `labels`: (B * K, T). `ctc_labels`: (B, N).
        """
        output = self.model(
            input_values, attention_mask, None, decoder_input_ids, mask_time_indices
        )
        loss = cross_entropy(output.logits, labels, self.config.label_smoothing)
        if self.ctc is None:
            return loss

        # The pad token is CTC's blank. A clip has K texts, and one CTC text: its weight is K times
        # as large.
        blank = self.model.generation.pad_token_id
        ctc_logits = self.ctc(output.memory)  # (B, S, V)
        ctc = ctc_loss(ctc_logits, output.frame_lengths, ctc_labels, blank)
        return loss + self.config.ctc * self.config.targets * ctc
