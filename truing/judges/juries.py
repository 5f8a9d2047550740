"""Several judges as one: unlike models make unlike errors.

Source: Verga et al. 2024, Replacing Judges with Juries, arXiv:2404.18796.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from truing.types import Verdict

How = Literal["majority", "mean"]


def jury_of(verdicts: Sequence[Verdict], how: How = "majority") -> Verdict:
    """Return the only verdict as it is, or the jury's."""
    return verdicts[0] if len(verdicts) == 1 else combine_jury(verdicts, how)


def combine_jury(verdicts: Sequence[Verdict], how: How = "majority") -> Verdict:
    """Return the jury's verdict; a failure where at most half of the jurors have one.

    Args:
        verdicts: of the jurors, in [0, 1].
        how: majority is the side (above, at or below one half) that more than half of the scored jurors
            take, else 0.5; mean is the mean of their values.
    """
    values = [v.value for v in verdicts if v.value is not None]
    time_s = max((v.time_s for v in verdicts), default=0.0)
    if 2 * len(values) <= len(verdicts):
        status = Counter(v.status for v in verdicts if v.value is None).most_common(1)[0][0]
        first = next(v.evidence for v in verdicts if v.status == status)
        return Verdict(
            status, None, f"{len(values)} of {len(verdicts)} jurors have a verdict; {first}", time_s
        )
    said = ", ".join(f"{v.value:.2f}" if v.value is not None else v.status for v in verdicts)
    if how == "mean":
        return Verdict("scored", sum(values) / len(values), f"jurors: {said}", time_s)
    sides = Counter(0.5 if v == 0.5 else float(v > 0.5) for v in values)
    side, count = sides.most_common(1)[0]
    return Verdict("scored", side if 2 * count > len(values) else 0.5, f"jurors: {said}", time_s)
