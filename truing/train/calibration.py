"""What is done with a reward model's scores at the end of its training: see `truing.math.scores`."""

from __future__ import annotations

import math

from truing.config import ScoreCalibration
from truing.errors import DataError
from truing.log import StageLog
from truing.math.scores import correlation, fit_calibration
from truing.model.forward import sequence_scores
from truing.model.heads import ScalarModel
from truing.model.micro_batches import in_micro_batches, to_device
from truing.types import Batch, Outputs


def calibrate(
    network: ScalarModel, batch: Batch, options: ScoreCalibration, *, max_tokens: int, log: StageLog
) -> None:
    """Fit the network's calibration on the completions of the batch, and log it.

    Args:
        network: trained; its raw scores are left as they are.
        batch: completions such as those that will be scored.
        options: what is fitted.
        max_tokens: packed tokens of one forward pass.
        log: of the stage.

    Raises:
        DataError: every score is the same.
    """
    device = network.head.weight.device
    found = in_micro_batches(
        batch, max_tokens, lambda part: Outputs(scores=sequence_scores(network, to_device(part, device)))
    )
    scores = found.require("scores").cpu().double()
    lengths = batch.lengths.cpu().double()
    try:
        fitted = fit_calibration(
            scores, lengths, normalise=options.normalise, remove_length=options.remove_length
        )
    except ValueError as error:
        raise DataError(f"calibration: {error}") from error
    network.calibration = fitted
    before, after = (float(correlation(x, lengths)) for x in (scores, fitted(scores, lengths)))
    log.event(
        "calibration",
        f"{len(scores)} scores: mean {float(scores.mean()):.3g}, std {float(scores.std(correction=0)):.3g}, "
        f"correlation with length {before:.2f}, calibrated {after:.2f}",
        gain=fitted.gain,
        bias=fitted.bias,
        length_slope=fitted.length_slope,
        correlation=before if math.isfinite(before) else 0.0,
    )
