"""All that judged rows show: the rate, how sound each judge is, and how far people agree with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from truing.judges.agreement import krippendorff_alpha
from truing.judges.calibration import (
    Estimate,
    against_people,
    calibration_error,
    corrected_rate,
    estimate_of,
    prediction_powered_mean,
    reliability,
)
from truing.judges.health import health
from truing.judges.judging import Judged
from truing.judges.pairwise import winner
from truing.judges.rows import JudgedRow
from truing.types import Verdict

_FEWEST = 2  # items from which on there is an interval


def study(
    rows: Sequence[JudgedRow],
    verdicts: Sequence[Verdict],
    judged: Mapping[str, Sequence[Judged]],
    *,
    own: str | None = None,
) -> dict[str, Any]:
    """Return what a judge or a jury said of the rows, as numbers with intervals.

    "mean": of the scored verdicts; of pairs it is the win rate of the first, ties one half. "statuses": how
    many verdicts of each. "health": of each judge. "jurors_alpha": Krippendorff's alpha among several.
    "people": where rows have labels (`beside_people`).

    Args:
        rows: what was judged.
        verdicts: of the jury, or of its only judge.
        judged: what each judge said, by its model's name.
        own: the author that is the judge; rows then say who wrote what.
    """
    values = [v.value for v in verdicts if v.value is not None]
    authors = [r.authors for r in rows] if own is not None else None
    items = [r.item for r in rows]
    found: dict[str, Any] = {
        "rows": len(rows),
        "statuses": dict(Counter(v.status for v in verdicts)),
        "mean": asdict(_mean(values)) if values else None,
        "health": {
            name: {k: asdict(e) for k, e in health(items, said, authors=authors, own=own).items()}
            for name, said in judged.items()
        },
    }
    if len(judged) > 1:
        found["jurors_alpha"] = _alpha(list(judged.values()))
    if any(r.human is not None for r in rows):
        found["people"] = beside_people(verdicts, [r.human for r in rows])
    return found


def beside_people(verdicts: Sequence[Verdict], human: Sequence[float | None]) -> dict[str, Any]:
    """Return agreement with people's labels, calibration, and means corrected by them.

    "corrected_share" is the share of verdicts above one half that people would give, from the judge's known
    errors; "corrected_mean" people's mean, ties and all. Both need rows without a label; what cannot be
    said is None, with the reason beside it.

    Args:
        verdicts: of all rows.
        human: label of each row, None without one.
    """
    both = [
        (v.value, h) for v, h in zip(verdicts, human, strict=True) if v.value is not None and h is not None
    ]
    found: dict[str, Any] = {"labels": sum(h is not None for h in human), "labels_with_verdict": len(both)}
    if len(both) < _FEWEST:
        return found | {"problem": f"{len(both)} rows have both a label and a verdict; two are the fewest"}
    said, true = [v for v, _ in both], [h for _, h in both]
    rest = [v.value for v, h in zip(verdicts, human, strict=True) if v.value is not None and h is None]
    found |= {name: asdict(e) for name, e in against_people(said, true).items()}
    found["mean"] = asdict(_mean(true))
    found["calibration_error"] = calibration_error(said, true)
    found["reliability"] = [asdict(b) for b in reliability(said, true)]
    sides, labels = [x > 0.5 for x in said], [x > 0.5 for x in true]
    found |= _or_problem("corrected_share", lambda: corrected_rate([x > 0.5 for x in rest], sides, labels))
    return found | _or_problem("corrected_mean", lambda: prediction_powered_mean(rest, said, true))


def _or_problem(name: str, estimate: Any) -> dict[str, Any]:
    try:
        return {name: asdict(estimate())}
    except ValueError as problem:
        return {name: None, f"{name}_problem": str(problem)}


def _mean(values: Sequence[float]) -> Estimate:
    if len(values) < _FEWEST:
        return Estimate(fmean(values), 0.0, 1.0, len(values))
    return estimate_of(fmean(values), lambda rows: fmean(values[i] for i in rows), len(values), is_share=True)


def _alpha(judged: Sequence[Sequence[Judged]]) -> float | None:
    sides = [[None if j.verdict.value is None else winner(j.verdict.value) for j in said] for said in judged]
    try:
        alpha = krippendorff_alpha(list(zip(*sides, strict=True)))
    except ValueError:
        return None  # no row has two verdicts
    return alpha if alpha == alpha else None  # undefined where all say the same of everything
