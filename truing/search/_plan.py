"""What a comparison of searches reads: a TOML file, checked before torch is imported."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from truing import plugins
from truing.config import Generator, Source, Strict
from truing.errors import ConfigError
from truing.evals.votes import Aggregation
from truing.recipe.overrides import parse_value
from truing.runs import is_run, last_model

Checked = TypeVar("Checked", bound=Strict)


class ScorerOptions(Strict):
    """What scores the paths of a search."""

    kind: Literal["process", "outcome", "verifier"] = Field(
        description="a process reward model, a reward model of completions, or a verifier that search may use"
    )
    model: str | None = Field(None, description="folder of the reward model, or of its run")
    verifier: str | None = Field(None, description='with kind = "verifier": its name')
    options: dict[str, Any] = Field(default_factory=dict, description="of that verifier")
    aggregate: Aggregation = Field("last", description="how the scores of steps become one")
    micro_batch_tokens: int = Field(8192, gt=0, description="packed tokens of one forward pass")

    @model_validator(mode="after")
    def _names_what_it_is(self) -> ScorerOptions:
        wanted, other = ("verifier", "model") if self.kind == "verifier" else ("model", "verifier")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f'kind = "{self.kind}" needs {wanted}, and no {other}')
        if self.kind != "verifier" and self.options:
            raise ValueError(f'options are of a verifier, and kind = "{self.kind}" has none')
        if self.kind != "process" and self.aggregate != "last":
            raise ValueError(f'aggregate does nothing with kind = "{self.kind}": there is one score')
        return self


class StrategyOptions(Strict):
    """One way to search."""

    method: str | None = Field(None, description="name in truing/search/; None: the name of its table")
    options: dict[str, Any] = Field(default_factory=dict, description="of the method")


class Sampling(Strict):
    """What every run of the sampler over a data set's prompts shares."""

    model: str = Field(description="the policy: folder, run folder, hub id or built-in alias")
    data: Source = Field(description="path of a file with prompts and answers, or a generator")
    verifier: str = Field(description="says which completions are right")
    options: dict[str, Any] = Field(default_factory=dict, description="of the verifier")
    limit: int | None = Field(None, gt=0, description="only the first prompts")
    separator: str = Field("\n", min_length=1, description="text that ends a step")
    max_tokens: int = Field(256, gt=0, description="of a completion")
    max_step_tokens: int = Field(64, gt=0, description="of a step; a longer one is cut there")
    temperature: float = Field(0.8, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, description="of the sampling")
    device: str = Field("auto", description="'auto', 'cpu' or 'cuda'")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class Plan(Sampling):
    """A comparison of strategies on the same prompts."""

    budget: int | None = Field(
        None, gt=0, description="tokens of each prompt, generated and scored; None: each strategy runs once"
    )
    scorer: ScorerOptions | None = None
    strategy: dict[str, StrategyOptions] = Field(
        min_length=1, description="by name; the first is compared with"
    )
    curve_samples: int = Field(
        0, ge=0, description="completions of each prompt for gold and proxy over n; 0: no curve"
    )

    @model_validator(mode="after")
    def _curve_has_a_proxy(self) -> Plan:
        if self.curve_samples and self.scorer is None:
            raise ValueError("curve_samples needs a scorer: the curve is of what it picks")
        return self


class LabelPlan(Sampling):
    """Step labels by Monte-Carlo roll-outs (Wang et al. 2023, arXiv:2312.08935)."""

    completer: str | None = Field(None, description="what continues prefixes; None: the model itself")
    num_solutions: int = Field(4, gt=0, description="solutions drawn for each prompt")
    num_rollouts: int = Field(8, gt=0, description="continuations of each prefix")
    labels: Literal["soft", "hard"] = Field(
        "soft", description="the share of continuations that are right, or whether any is"
    )
    find: Literal["every", "first_error"] = Field(
        "every", description="label every step, or search by bisection for the first without a right end"
    )

    @model_validator(mode="after")
    def _bisection_is_hard(self) -> LabelPlan:
        if self.find == "first_error" and self.labels == "soft":
            raise ValueError('find = "first_error" measures few steps: set labels = "hard"')
        return self


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the checked plan of a TOML file; its paths are relative to the file where they exist there.

    Args:
        overrides: `key=value`, laid over the file: "budget=4096", "strategy.beam.options.width=2".

    Raises:
        ConfigError: the file is missing or wrong; the message names the key.
    """
    return _load(Path(path), overrides, Plan)


def load_label_plan(path: str | Path, overrides: Sequence[str] = ()) -> LabelPlan:
    """Return the checked plan of a TOML file, as `load_plan` does.

    Raises:
        ConfigError: the file is missing or wrong; the message names the key.
    """
    return _load(Path(path), overrides, LabelPlan)


def _load(path: Path, overrides: Sequence[str], kind: type[Checked]) -> Checked:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        _override(values, override)
    plan = checked(kind, values, str(path))
    return plan.model_copy(update=_located(plan, path.parent))


def checked(kind: type[Checked], values: Mapping[str, Any], where: str) -> Checked:
    """Return the values as checked options.

    Raises:
        ConfigError: a value is wrong; every problem is named with its key.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [_problem(detail, kind) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(found)) from error


def plugin_options(folder: str, name: str, options: Mapping[str, Any], where: str) -> Any:
    """Return the checked Config of a plug-in."""
    return checked(plugins.load(folder, name).Config, options, f"{where}: {name}")


def _problem(detail: Any, kind: type[Strict]) -> str:
    place = [str(part) for part in detail["loc"] if not str(part).startswith("<")]
    key = ".".join(place) or "the plan"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], kind.model_fields, n=1)
        right = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(kind.model_fields)}"
        return f"{key}: unknown key; {right}"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}': write key=value, for example budget=4096")
    *tables, last = key.strip().split(".")
    for name in tables:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override '{text}': '{name}' is no table")
    values[last] = parse_value(value)


def _located(plan: Any, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"model": _beside(plan.model, folder)}
    if not isinstance(plan.data, Generator):
        found["data"] = _beside(plan.data, folder)
    if isinstance(plan, LabelPlan) and plan.completer is not None:
        found["completer"] = _beside(plan.completer, folder)
    if isinstance(plan, Plan) and plan.scorer is not None and plan.scorer.model is not None:
        model = _beside(plan.scorer.model, folder)
        found["scorer"] = plan.scorer.model_copy(update={"model": model})
    return found


def _beside(name: str, folder: Path) -> str:
    """Return the path beside the plan where it exists; of a run's folder, the model of its last stage."""
    path = folder / Path(name).expanduser()
    found = path if path.exists() else Path(name).expanduser()
    if is_run(found):
        return str(last_model(found))
    return str(found) if found.exists() else name
