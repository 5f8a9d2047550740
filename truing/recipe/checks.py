"""Which keys of a stage do not go together, and which a method would ignore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from truing import plugins
from truing.config import Stage
from truing.errors import PluginError
from truing.recipe.draft import at
from truing.recipe.method import Complaint, Method
from truing.recipe.positions import KeyPath
from truing.recipe.sampling import bad_data_link, data_links, unused_by_sampling


def unused(values: Mapping[str, Any], method: Method) -> Iterator[Complaint]:
    """Yield the keys that are set and that this method would ignore: an error, never a no-op."""
    if method.samples:
        yield from unused_by_sampling(values)
        return
    for path, applies, what, right in _conditional_keys(values, method):
        if not applies and at(values, path) is not None:
            yield Complaint(path, what, right)


def _conditional_keys(values: Mapping[str, Any], method: Method) -> list[tuple[KeyPath, bool, str, str]]:
    offline = f"{method.name} learns from {method.data} and samples nothing"
    rewarded = method.online and method.rewarded
    unrewarded = offline if not method.online else f"{method.name} maximises no reward"
    remove = "remove it, or choose an online method such as grpo"
    no_reference = f"{method.name} with these options uses no reference policy"
    no_critic = f"{method.name} trains no value network"
    flat = at(values, ("learner", "schedule")) != "constant"
    longer, reads = ("data", "max_completion_tokens"), method.data != "prompts"
    return [
        (("sampler",), method.online, offline, remove),
        (("rewards",), rewarded, unrewarded, remove),
        (("reward_model",), rewarded, unrewarded, remove),
        (("epochs",), not method.online, f"{method.name} samples, so it counts steps", "set steps instead"),
        (longer, reads, f"{method.name} has no completions to read", "set sampler.max_tokens"),
        (("reference",), not method.lacks("ref_logprobs"), no_reference, "remove it"),
        (("learner", "critic_learning_rate"), not method.lacks("values"), no_critic, "remove it"),
        (("learner", "process_learning_rate"), not method.lacks("process_logprobs"),
         f"{method.name} trains no process reward model", "remove it"),
        (("environment",), method.data == "prompts", offline, remove),
        (("data", "steps"), method.data == "steps", f"{method.name} learns from {method.data}", "remove it"),
        (("replay", "data", "steps"), False, "demonstrations have no labelled steps", "remove it"),
        (("ensemble",), isinstance(values.get("reward_model"), list),
         "there is no list of reward models to combine", "remove it, or list them in reward_model"),
        (("calibration",), not method.lacks("scores"), f"{method.name} trains no score of completions",
         "remove it"),
        (("replay",), not method.scores, "a reward model writes nothing that could follow demonstrations",
         "remove it"),
        (("learner", "min_lr_ratio"), flat, "a constant schedule has no end value", "remove it"),
        (("evaluation",), not method.scores, "a reward model writes nothing "
         "that could be sampled and verified", "remove it; the training metrics show its accuracy"),
    ]  # fmt: skip


def contradictions(values: Mapping[str, Any], stage: Stage | None, method: Method) -> Iterator[Complaint]:
    """Yield what is missing or impossible; `stage` is None where the keys alone are not valid yet."""
    if not method.samples:
        yield from _length(values, method)
    if method.online:
        yield from _online(values, method)
    yield from _reference(values, method)
    if stage is not None:
        yield from _sizes(stage, method)
        yield from _turns(stage, method)
        yield from _kl(stage)


def _length(values: Mapping[str, Any], method: Method) -> Iterator[Complaint]:
    given = [k for k in ("steps", "epochs") if k in values]
    if len(given) == 2 and not method.online:
        yield Complaint(("epochs",), "steps and epochs are both set", "keep one of them")
    if not given:
        right = "set steps" if method.online else "set steps, or epochs (passes over the data)"
        yield Complaint((), "how long to train is not said", right)


def _online(values: Mapping[str, Any], method: Method) -> Iterator[Complaint]:
    if "sampler" not in values:
        right = "add a [sampler] table, for example sampler = { group_size = 8, max_tokens = 256 }"
        yield Complaint(("sampler",), f"{method.name} samples completions, and there is no [sampler]", right)
    rewarded = method.rewarded and not method.samples
    if rewarded and not values.get("rewards") and "reward_model" not in values:
        right = 'add one, for example rewards.answer.verifier = "math_answer", or set reward_model'
        yield Complaint(("rewards",), f"{method.name} maximises a reward, and there is none", right)


def _reference(values: Mapping[str, Any], method: Method) -> Iterator[Complaint]:
    kind = values.get("reference")
    if method.reference_required and kind in (None, "copy", "base", "cache"):
        said = f"'{kind}' is the policy itself" if kind else "no model is named"
        what = f"{method.name} learns from the reference, its teacher, and {said}"
        yield Complaint(("reference",), what, "a folder, a hub id or stage:NAME, with the same vocabulary")
        return
    if kind == "base" and at(values, ("learner", "lora")) is None:
        right = "add a [learner.lora] table, or use reference = 'copy'"
        yield Complaint(("reference",), "'base' is the model with its LoRA off, and there is no LoRA", right)
    if kind == "cache" and method.online:
        what = "'cache' keeps the log-probs of fixed rows, and every rollout is new"
        yield Complaint(("reference",), what, "use 'copy', or 'base' with LoRA")
    elif kind == "cache" and "reference_point" in (method.needs or ()):
        what = f"'cache' keeps fixed rows' log-probs, and {method.name} pairs prompts with other completions"
        right = "use 'copy', or 'base' with LoRA, or options.kl_estimate = 'none'"
        yield Complaint(("reference",), what, right)


def _kl(stage: Stage) -> Iterator[Complaint]:
    if stage.evaluation is None or not stage.evaluation.kl:
        return
    tables = {("sampler",): stage.sampler, ("evaluation",): stage.evaluation}
    for path, table in tables.items():
        if table is not None and table.temperature != 1:
            what = f"evaluation.kl is of the policy itself, and completions are drawn at {table.temperature}"
            yield Complaint((*path, "temperature"), what, "temperature = 1.0, or evaluation.kl = false")


def _turns(stage: Stage, method: Method) -> Iterator[Complaint]:
    environment = stage.environment
    turn = stage.sampler.max_tokens if stage.sampler is not None else 0
    if environment is not None and environment.max_tokens < turn:
        what = f"a conversation of {environment.max_tokens} tokens has no room for one turn"
        right = f"at least sampler.max_tokens, {turn}, for each turn and its reply"
        yield Complaint(("environment", "max_tokens"), what, right)
    if environment is not None and plugins.config_class("algorithms", method.algorithm).opponent != "none":
        what = f"{method.name} samples beside an opponent and plays no conversations"
        yield Complaint(("environment",), what, "remove it, or choose a method such as grpo")
    if environment is not None and "baselines" in (method.needs or ()):
        what = f"{method.name} compares with a greedy completion of the prompt and plays no conversations"
        yield Complaint(("environment",), what, "remove it, or choose a method such as grpo")
    if method.data != "prompts" or method.needs is None or "turn_rewards" not in method.needs:
        return
    right = 'an environment that judges every turn, such as environment.name = "self_correct"'
    if environment is None:
        yield Complaint(("environment",), f"{method.name} learns from the turns of a conversation", right)
    elif _judged(environment.name) == "last":
        what = f"{method.name} learns from every turn, and {environment.name} judges only the last"
        yield Complaint(("environment", "name"), what, right)


def _judged(environment: str) -> str | None:
    try:
        judged: str | None = getattr(plugins.config_class("environments", environment), "judged", None)
    except PluginError:
        return None  # the look-up of the name says so
    return judged


def _sizes(stage: Stage, method: Method) -> Iterator[Complaint]:
    group_size = stage.sampler.group_size if stage.sampler is not None and method.online else 1
    minimum = method.min_group_size
    if stage.sampler is not None and group_size < minimum:
        what = f"{group_size} is too few: {method.name} compares the completions of a prompt with each other"
        yield Complaint(("sampler", "group_size"), what, f"at least {minimum}; 8 is a common start")
    limited = stage.environment or stage.sampler  # what limits a whole completion
    if limited is not None and method.max_tokens not in (None, limited.max_tokens):
        given = limited.max_tokens
        what = f"{method.max_tokens} is not the sampler's limit of {given}, from which {method.name} counts"
        yield Complaint(("options", "max_tokens"), what, f"options.max_tokens = {given}")
    rows = stage.batch_size * group_size
    if stage.learner.num_minibatches > rows:
        what = f"{stage.learner.num_minibatches} minibatches of a batch of {rows} rows would be empty"
        yield Complaint(("learner", "num_minibatches"), what, f"at most {rows}, or a larger batch_size")


def link_problems(names: list[str], stages: list[Mapping[str, Any]], methods: list[Method | None]) -> list[
    tuple[int, Complaint]
]:  # fmt: skip
    """Return (stage number, complaint) of names used twice and of `stage:NAME` that leads nowhere."""
    found = list[tuple[int, Complaint]]()
    for i, (name, values) in enumerate(zip(names, stages, strict=True)):
        if name in names[:i]:
            found.append(
                (i, Complaint(("name",), f"an earlier stage is called '{name}' too", "choose another"))
            )
        if i > 0 and "model" not in values:
            right = f'set model = "stage:{names[i - 1]}" to continue from the stage before'
            found.append((i, Complaint(("model",), "this stage names no model to start from", right)))
        for path, target, kind in data_links(values, methods[i]):
            complaint = bad_data_link(path, target, kind, i, names, stages)
            found += [(i, complaint)] if complaint is not None else []
        for key in ("model", "reward_model", "reference"):
            for target in targets(values.get(key)):
                if target.startswith("stage:"):
                    complaint = _bad_link(key, target[len("stage:") :], i, names, methods)
                    found += [(i, complaint)] if complaint is not None else []
    return found


def targets(value: Any) -> list[str]:
    """Return the models that a key names: one, or several in an array."""
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _bad_link(
    key: str, target: str, index: int, names: list[str], methods: list[Method | None]
) -> Complaint | None:
    earlier = names[:index]
    if target not in earlier:
        why = (
            "is this stage itself"
            if target == names[index]
            else "comes later"
            if target in names
            else "is unknown"
        )
        right = f"an earlier stage: {', '.join(f'stage:{n}' for n in earlier)}" if earlier else (
            "this is the first stage: name a folder, a hub id or a built-in model"
        )  # fmt: skip
        return Complaint((key,), f"stage '{target}' {why}", right)
    method = methods[earlier.index(target)]
    if method is None or method.needs is None:
        return None
    if method.samples:
        what = f"stage '{target}' samples rows, and leaves no model"
        return Complaint((key,), what, "name a stage that trains")
    is_scorer = method.scores
    if is_scorer and key != "reward_model":
        what = f"stage '{target}' trains a reward model ({method.name}), which writes no text"
        return Complaint((key,), what, "name a stage that trains a policy")
    if not is_scorer and key == "reward_model":
        what = f"stage '{target}' trains a policy ({method.name}), which gives no scores"
        return Complaint((key,), what, "name a stage whose algorithm is reward_model")
    return None
