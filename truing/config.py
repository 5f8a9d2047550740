"""The recipe: what one run is, as pydantic models. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

DataKind = Literal["demonstrations", "pairs", "prompts", "unpaired", "rankings", "steps"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # of runs and stages: they are folders, so no "..", no "/"


class Strict(BaseModel):
    """Frozen; an unknown key is an error, and so is a value of another type ("3" is no number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Options(Strict):
    """Base of every algorithm's Config: its options, and what a recipe must know before torch is there.

    data: the kind of rows it learns from; with "prompts" it learns from completions that it samples.
    learning_rate: where to start, (all weights, LoRA).
    self_play: it has demonstrations, and samples a completion of its own beside each.
    rewarded: an online method that maximises a reward; False where the signal comes from elsewhere.
    min_group_size: the fewest completions of a prompt that it can compare.
    opponent: another policy that draws half of each group: the reference, or the geometric mixture
        of policy and reference.
    parameters: names and start values of numbers that are learned beside the network.
    only_with: {option: the option without which it does nothing}, which is checked.
    reference_required: the recipe must name another model as reference: its teacher.
    """

    data: ClassVar[DataKind]
    learning_rate: ClassVar[tuple[float, float]]
    self_play: ClassVar[bool] = False
    rewarded: ClassVar[bool] = True
    min_group_size: ClassVar[int] = 1
    opponent: ClassVar[Literal["none", "reference", "mixture"]] = "none"
    parameters: ClassVar[dict[str, float]] = {}
    only_with: ClassVar[dict[str, str]] = {}
    reference_required: ClassVar[bool] = False

    @model_validator(mode="after")
    def _every_option_does_something(self) -> Options:
        for key, other in self.only_with.items():
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and not getattr(self, other):
                raise ValueError(f"{key} does nothing without {other}: set {other}, or leave {key} out")
        return self

    @classmethod
    def start_rate(cls, *, lora: bool) -> float:
        """Return the learning rate to start from, of an adapter or of all weights."""
        full, adapter = cls.learning_rate
        return adapter if lora else full

    def sampler_max_tokens(self) -> int | None:
        """Return what sampler.max_tokens must be, or None where the algorithm does not care."""
        return None

    def needs(self) -> frozenset[str]:
        """Return what it reads of Outputs and of an annotated Batch.

        Of Outputs: logprobs, prompt_logprobs, entropy, values, scores, token_scores, length_scores,
        process_logprobs, sharp_logprobs, parameters. Of the Batch: old_logprobs, ref_logprobs, old_scores,
        reference_point, baselines, and labels, where a pair may be less than certain.
        """
        return frozenset({"logprobs"})


def _no_k1(value: Any) -> Any:
    if value == "k1":
        raise ValueError("k1 in the loss has gradient 0: use k2, or a method with the KL in its reward")
    return value


def _off_or_at_least_1(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("a cap under 1 shrinks every weight: at least 1, or 0 for no correction")
    return value


# Options that online methods share: bounds and help stand here, each method sets its own default.
ClipLow = Annotated[float, Field(gt=0, lt=1, description="the ratio counts down to 1 - clip_low")]
ClipHigh = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="the ratio counts up to 1 + clip_high")
]
DualClip = Annotated[
    float | None, Field(gt=1, description="bound on the ratio where the advantage is negative")
]
ScaleRewards = Annotated[
    Literal["group", "batch", "none"],
    Field(description="what advantages are divided by: the std of the group, of the batch, or nothing"),
]
KlLossCoef = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="weight of the KL term in the loss; 0: none")
]
KlEstimator = Annotated[
    Literal["k2", "k3", "k3_ratio"],
    BeforeValidator(_no_k1),
    Field(description="of the KL term: k3 has a forward-KL gradient, k2 and k3_ratio a reverse-KL one"),
]
KlRewardCoef = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="KL penalty (k1) in the reward [1/nat]; 0: none")
]
EntropyCoef = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="weight of the entropy bonus; 0: none")
]
Mismatch = Annotated[
    Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
    Field(
        description="the weight exp(old_logprobs - sampler_logprobs) of tokens or sequences is cut at "
        "mismatch_cap, or is 0 above it"
    ),
]
MismatchCap = Annotated[
    float,
    Field(ge=0, description="cap of the weight that corrects sampler log-probs; 0: no correction"),
    AfterValidator(_off_or_at_least_1),
]
MaxGap = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="leave out bad completions whose mean sampler_logprobs - logprobs is above this "
        "[nats per token]; 0: none",
    ),
]


class EnvironmentOptions(Strict):
    """Base of every environment's Config.

    judged: which of the assistant's turns the reward's terms judge; the last one's is the reward.
    """

    judged: ClassVar[Literal["last", "every"]] = "last"

    def max_turns(self) -> int:
        """Return how many turns the assistant has at most."""
        return 1


class TermOptions(Strict):
    """Base of the Config of every term in `truing/terms/`.

    batch_wide: a completion's number depends on the other completions of the batch.
    """

    batch_wide: ClassVar[bool] = False

    def reads(self) -> tuple[str, ...]:
        """Return the names of the terms whose values it takes."""
        return ()

    def silent_up_to(self) -> int:
        """Return the length up to which it says the same of every completion [tokens]."""
        return 0


class Generator(Strict):
    """Rows made by a function of `truing/data/` (or a dotted or file path), from a seed."""

    generator: str = Field(description="name in truing/data/, dotted path or .py path")
    count: int = Field(gt=0, description="how many rows")
    seed: int = Field(0, description="rows are a function of the seed")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")


def _kind_of_source(value: Any) -> str | None:
    if isinstance(value, str):
        return "<path>"
    return "<table>" if isinstance(value, dict | Generator) else None


Source = Annotated[
    Annotated[str, Tag("<path>")] | Annotated[Generator, Tag("<table>")],
    Discriminator(_kind_of_source, custom_error_type="source", custom_error_message="not a path or a table"),
]


class Steps(Strict):
    """How solutions in steps are read (process reward models)."""

    separator: str = Field("\n", min_length=1, description="between two steps; a step ends with it")
    neutral: Literal["good", "bad"] = Field("good", description="what PRM800K's rating 0 counts as")
    rollouts: Literal["soft", "hard"] = Field(
        "soft",
        description="label of a step: the share of its continuations that are right, or whether any is",
    )


class Data(Strict):
    """Where rows come from and how long they may be."""

    train: Source = Field(
        description="path of a .jsonl/.json/.parquet file, a generator, or stage:NAME for the rows that "
        "a stage sampled"
    )
    limit: int | None = Field(None, gt=0, description="use only the first rows")
    max_prompt_tokens: int = Field(1024, gt=0)
    max_completion_tokens: int = Field(1024, gt=0, description="of demonstrations and pairs")
    overlong: Literal["error", "drop", "truncate"] = Field(
        "error", description="what to do with rows past the limits; drops and cuts are counted"
    )
    shuffle: bool = True
    steps: Steps | None = Field(None, description="how solutions in steps are read, where they train")


class Lora(Strict):
    """A low-rank adapter on the linear layers (peft)."""

    rank: int = Field(16, gt=0)
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field("all-linear", description="peft's target_modules")


Beta = Annotated[float, Field(ge=0, lt=1)]


class LearnerConfig(Strict):
    """How weights are updated."""

    learning_rate: float | None = Field(
        None, gt=0, lt=1, description="the algorithm's own start when left out"
    )
    critic_learning_rate: float = Field(
        5e-6, gt=0, lt=1, description="of the value network, when there is one"
    )
    process_learning_rate: float = Field(
        1e-6, gt=0, lt=1, description="of the implicit process reward model, when there is one"
    )
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), strict=False, description="of Adam")
    max_grad_norm: float = Field(1.0, gt=0, description="global norm; use inf for none")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="where the schedule ends, of the peak")
    lora: Lora | None = None
    activation_checkpointing: bool = False
    micro_batch_tokens: int = Field(8192, gt=0, description="packed tokens of one forward pass")
    num_minibatches: int = Field(1, gt=0, description="optimizer steps in one pass over a batch")
    num_epochs: int = Field(1, gt=0, description="passes over each collected batch")


class SamplerConfig(Strict):
    """How completions are drawn for training (online methods only)."""

    engine: str = Field("hf", description="module of truing/rollout/")
    group_size: int = Field(8, gt=0, description="completions of each prompt")
    max_tokens: int = Field(256, gt=0, description="completion tokens; of each turn in an environment")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    stop: list[str] = Field(default_factory=list, description="extra stop tokens; EOS always stops")
    mismatch_threshold: float = Field(
        0.2, gt=0, description="stop when mean |sampler_logprobs - logprobs| exceeds it [nats]"
    )


class Endpoint(Strict):
    """A chat model that judges: at an OpenAI-compatible address, or in this process."""

    model: str = Field(
        min_length=1, description="as the endpoint names it; without url: folder, hub id, alias"
    )
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="base URL, such as http://127.0.0.1:8000/v1; None: in-process",
    )
    api_key_env: str | None = Field(None, description="environment variable that holds the API key")
    max_concurrency: int = Field(8, gt=0, description="requests under way at once")
    timeout_s: float = Field(60.0, gt=0, allow_inf_nan=False, description="of one try [s]")
    deadline_s: float = Field(
        300.0, gt=0, allow_inf_nan=False, description="of a request with its retries [s]"
    )
    max_tries: int = Field(6, gt=0, description="after a 429, a 5xx, a timeout or a lost connection")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls the limit of a reply"
    )
    cache: str | None = Field(None, description="SQLite file of replies; None: nothing is kept")
    cache_tag: str = Field(
        "", description="part of the cache's key: change it with the model behind the name"
    )
    input_price: float = Field(0.0, ge=0, allow_inf_nan=False, description="per million prompt tokens")
    output_price: float = Field(0.0, ge=0, allow_inf_nan=False, description="per million reply tokens")

    @model_validator(mode="after")
    def _has_use(self) -> Endpoint:
        only_with_url = {"api_key_env", "limit_name", "input_price", "output_price"} & self.model_fields_set
        if self.url is None and only_with_url:
            raise ValueError(f"without url the model runs in this process: {min(only_with_url)} does nothing")
        if self.cache is None and self.cache_tag:
            raise ValueError("cache_tag does nothing without cache: set cache, or leave cache_tag out")
        return self


class JudgeOptions(Strict):
    """Base of every judge's Config: how the chat model is asked.

    completions: how many it looks at side by side; with 2 the verdict is how good the first is.
    """

    completions: ClassVar[Literal[1, 2]] = 1

    votes: int = Field(1, gt=0, description="replies that are averaged; more than one needs a temperature")
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, description="of the first vote; the next ones count on")
    max_tokens: int = Field(1024, gt=0, description="of a reply")
    reasons: bool = Field(True, description="it gives reasons before its verdict; else the label alone")
    use_logprobs: bool = Field(
        False, description="the expected verdict over the labels' log-probs, which the endpoint must give"
    )
    reminders: int = Field(1, ge=0, description="how often it is asked again after a reply without verdict")

    @model_validator(mode="after")
    def _votes_differ(self) -> JudgeOptions:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 every vote is the same: set a temperature, or votes = 1")
        return self


class Reward(Strict):
    """One term of the reward: what gives a completion a number, and what the number counts for.

    The table `rewards.reward_model` has no verifier, term or judge: its number is the score of the stage's
    `reward_model`.
    """

    verifier: str | None = Field(None, description="name in truing/verifiers/, dotted path or .py path")
    term: str | None = Field(
        None, description="instead of a verifier: name in truing/terms/ (lengths), dotted path or .py path"
    )
    judge: str | None = Field(
        None, description="instead of a verifier: name in truing/judges/, dotted path or .py path"
    )
    endpoint: Endpoint | None = Field(None, description="who judges, with judge")
    weight: float = Field(1.0, allow_inf_nan=False)
    floor: float | None = Field(None, allow_inf_nan=False, description="a value below counts as this one")
    ceiling: float | None = Field(None, allow_inf_nan=False, description="a value above counts as this one")
    scale: Literal["none", "batch", "group"] = Field(
        "none",
        description="(value - mean) / std before the weight, over the scored completions of the step or of "
        "the same prompt (GDPO), so that terms of any scale count alike",
    )
    gate: bool = Field(
        False, description="the other terms count only where this one's value reaches the threshold"
    )
    threshold: float = Field(0.5, allow_inf_nan=False, description="of a gate")
    failed: float = Field(
        0.0, allow_inf_nan=False, description="reward of a completion that does not pass this gate"
    )
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _keys_go_together(self) -> Reward:
        given = [k for k in ("verifier", "term", "judge") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set: a reward's term is one of them")
        if self.options and not given:
            raise ValueError("options are of a verifier, a term or a judge, and none is set")
        if (self.endpoint is None) != (self.judge is None):
            raise ValueError(
                "judge and endpoint belong together: endpoint = { model = ..., url = ... } judges"
            )
        if self.floor is not None and self.ceiling is not None and self.floor >= self.ceiling:
            raise ValueError(f"floor {self.floor:g} is not below ceiling {self.ceiling:g}")
        if not self.gate and (self.threshold != 0.5 or self.failed != 0.0):
            raise ValueError("threshold and failed are of a gate: set gate = true, or leave them out")
        return self


class Ensemble(Strict):
    """How the scores of several reward models become one (Coste et al. 2023, arXiv:2310.02743)."""

    combine: Literal["mean", "worst", "uncertainty"] = Field(
        "mean", description="of the members' scores; uncertainty: mean - penalty * variance"
    )
    penalty: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="weight of the members' variance, with uncertainty"
    )

    @model_validator(mode="after")
    def _penalty_has_use(self) -> Ensemble:
        if self.combine != "uncertainty" and self.penalty != 0.1:
            raise ValueError('penalty does nothing without combine = "uncertainty": leave it out')
        return self


class ScoreCalibration(Strict):
    """What is done with a reward model's scores once it is trained; it is saved with the model."""

    data: Source | None = Field(
        None,
        description="demonstrations to fit it on, best of all samples of the policy that will be trained; "
        "None: the completions it was trained on",
    )
    limit: int | None = Field(None, gt=0, description="fit on the first completions only")
    normalise: bool = Field(True, description="mean 0 and variance 1")
    remove_length: bool = Field(False, description="take off what the length explains, by least squares")

    @model_validator(mode="after")
    def _does_something(self) -> ScoreCalibration:
        if not self.normalise and not self.remove_length:
            raise ValueError("a calibration that neither normalises nor removes length does nothing")
        return self


class Environment(Strict):
    """What answers the policy between its turns (online methods only)."""

    name: str = Field(description="name in truing/environments/, dotted path or .py path")
    options: dict[str, Any] = Field(default_factory=dict, description="of the environment")
    max_tokens: int = Field(
        2048, gt=0, description="of a conversation after its prompt; a turn that might pass it is not begun"
    )


class Replay(Strict):
    """Demonstrations mixed into every batch, whose NLL is added to the method's loss (PPO-ptx)."""

    data: Data
    weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="of their mean NLL a token; InstructGPT's is 27.8"
    )
    share: float = Field(0.25, gt=0, lt=1, description="of the rows of a batch that are demonstrations")


class Sample(Strict):
    """What becomes of the completions that a stage without an algorithm samples and scores.

    A later stage reads the rows as `data.train = "stage:NAME"`.
    """

    kind: Literal["completions", "demonstrations", "pairs", "unpaired", "rankings"] = Field(
        "pairs",
        description="rows: every completion with its reward, the best of each prompt, pairs, labelled "
        "completions, or all completions of a prompt with their ranks",
    )
    pairs: Literal["best_worst", "all"] = Field(
        "best_worst",
        description="of each prompt: its best beside its worst completion, or any two that differ",
    )
    min_gap: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="pairs: by how much more than this the better one must score",
    )
    threshold: float = Field(
        0.5,
        allow_inf_nan=False,
        description="unpaired: good from this reward on; demonstrations: kept from it",
    )
    old_rows: Source | None = Field(
        None,
        description="earlier rows of the same kind, put before the new ones: a path, a table or stage:NAME",
    )

    @model_validator(mode="after")
    def _keys_belong_to_the_kind(self) -> Sample:
        if self.kind != "pairs" and (self.pairs != "best_worst" or self.min_gap):
            raise ValueError(f'pairs and min_gap are of kind = "pairs", not "{self.kind}"')
        if self.kind not in ("unpaired", "demonstrations") and self.threshold != 0.5:
            raise ValueError(f'threshold is of kind = "unpaired" or "demonstrations", not "{self.kind}"')
        return self


class Evaluation(Strict):
    """Held-out prompts, sampled and verified before, during and after training."""

    data: Source = Field(description="path of a file with prompts, or a generator")
    verifier: str = Field(description="name in truing/verifiers/, dotted path or .py path")
    options: dict[str, Any] = Field(default_factory=dict, description="of the verifier")
    limit: int | None = Field(None, gt=0)
    max_tokens: int = Field(256, gt=0)
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, description="0 is greedy")
    kl: bool = Field(
        False, description="measure the KL from the start policy on the completions; needs temperature 1"
    )
    before: bool = True
    every: int | None = Field(None, gt=0, description="steps; None: only at the end")
    allow_overlap: bool = Field(False, description="permit prompts that are also trained on")


class CheckpointConfig(Strict):
    """When state is saved and how much is kept."""

    every: int | None = Field(None, gt=0, description="steps; None: only at the end")
    keep: int = Field(2, gt=0, description="how many recent checkpoints stay")


class Log(Strict):
    """What is written while it runs."""

    trackers: list[Literal["trackio", "wandb", "mlflow", "tensorboard"]] = Field(default_factory=list)
    samples_every: int = Field(10, gt=0, description="steps between saved sample completions")
    samples: int = Field(4, ge=0, description="how many are saved each time")


class Stage(Strict):
    """One stage: it trains with an algorithm or, with `sample` instead, makes rows for later stages."""

    name: str = Field("train", pattern=NAME)
    algorithm: str | None = Field(None, description="name in truing/algorithms/, dotted path or .py path")
    sample: Sample | None = Field(None, description="instead of an algorithm: sample, score and write rows")
    options: dict[str, Any] = Field(default_factory=dict, description="the algorithm's own")
    model: str = Field(description="folder, hub id, built-in alias, or stage:NAME")
    reward_model: str | Annotated[list[str], Field(min_length=2)] | None = Field(
        None, description="folder or stage:NAME, or several as an ensemble; a term named reward_model"
    )
    ensemble: Ensemble | None = Field(None, description="how the scores of several reward models combine")
    reference: str | None = Field(
        None,
        description="'copy' (frozen start weights), 'base' (LoRA off), 'cache' (start log-probs on disk), "
        "or a model by name; None picks base with LoRA, cache where every row is known before, else copy",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of compute; masters are float32"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="'cpu', 'cuda', 'cuda:1' or 'mps'; 'auto' takes a GPU where there is one",
    )
    seed: int = 0
    steps: int | None = Field(None, gt=0, description="collect-and-update steps")
    epochs: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="passes over the data instead of steps"
    )
    batch_size: int = Field(32, gt=0, description="rows, pairs or prompts of one step")
    data: Data
    learner: LearnerConfig = LearnerConfig()
    sampler: SamplerConfig | None = None
    environment: Environment | None = None
    rewards: dict[Annotated[str, Field(pattern=NAME)], Reward] = Field(default_factory=dict)
    replay: Replay | None = None
    calibration: ScoreCalibration | None = Field(None, description="of the scores, once trained")
    evaluation: Evaluation | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: Log = Log()


class Recipe(Strict):
    """A run: one stage, or several whose outputs feed later ones (`model = "stage:sft"`)."""

    name: str = Field(pattern=NAME)
    output: str = Field("runs", description="folder that holds run folders")
    stages: list[Stage] = Field(min_length=1)
