"""The recipe: what one run is, as pydantic models. Imports neither torch nor ray."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

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
    """

    data: ClassVar[DataKind]
    learning_rate: ClassVar[tuple[float, float]]
    self_play: ClassVar[bool] = False
    rewarded: ClassVar[bool] = True
    min_group_size: ClassVar[int] = 1
    opponent: ClassVar[Literal["none", "reference", "mixture"]] = "none"
    parameters: ClassVar[dict[str, float]] = {}

    def sampler_max_tokens(self) -> int | None:
        """Return what sampler.max_tokens must be, or None where the algorithm does not care."""
        return None

    def needs(self) -> frozenset[str]:
        """Return what it reads of Outputs and of an annotated Batch.

        Of Outputs: logprobs, entropy, values, scores, token_scores, length_scores, process_logprobs,
        parameters. Of the Batch: old_logprobs, ref_logprobs, old_scores, reference_point, baselines.
        """
        return frozenset({"logprobs"})


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


class Data(Strict):
    """Where rows come from and how long they may be."""

    train: Source = Field(description="path of a .jsonl/.json/.parquet file, or a generator")
    limit: int | None = Field(None, gt=0, description="use only the first rows")
    max_prompt_tokens: int = Field(1024, gt=0)
    max_completion_tokens: int = Field(1024, gt=0, description="of demonstrations and pairs")
    overlong: Literal["error", "drop", "truncate"] = Field(
        "error", description="what to do with rows past the limits; drops and cuts are counted"
    )
    shuffle: bool = True


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
    max_tokens: int = Field(256, gt=0, description="completion tokens")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    stop: list[str] = Field(default_factory=list, description="extra stop tokens; EOS always stops")
    mismatch_threshold: float = Field(
        0.2, gt=0, description="stop when mean |sampler_logprobs - logprobs| exceeds it [nats]"
    )


class Reward(Strict):
    """One term of the reward: a verifier, its weight and its options."""

    verifier: str = Field(description="name in truing/verifiers/, dotted path or .py path")
    weight: float = Field(1.0, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict)


class Evaluation(Strict):
    """Held-out prompts, sampled and verified before, during and after training."""

    data: Source = Field(description="path of a file with prompts, or a generator")
    verifier: str = Field(description="name in truing/verifiers/, dotted path or .py path")
    options: dict[str, Any] = Field(default_factory=dict, description="of the verifier")
    limit: int | None = Field(None, gt=0)
    max_tokens: int = Field(256, gt=0)
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, description="0 is greedy")
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
    """One training stage."""

    name: str = Field("train", pattern=NAME)
    algorithm: str = Field(description="name in truing/algorithms/, dotted path or .py path")
    options: dict[str, Any] = Field(default_factory=dict, description="the algorithm's own")
    model: str = Field(description="folder, hub id, built-in alias, or stage:NAME")
    reward_model: str | None = Field(None, description="folder or stage:NAME; a term named reward_model")
    reference: str | None = Field(
        None,
        description="'copy' (frozen start weights), 'base' (LoRA off), 'cache' (start log-probs on disk), "
        "or a model by name; None picks base with LoRA, cache offline, copy online",
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
    rewards: dict[Annotated[str, Field(pattern=NAME)], Reward] = Field(default_factory=dict)
    evaluation: Evaluation | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: Log = Log()


class Recipe(Strict):
    """A run: one stage, or several whose outputs feed later ones (`model = "stage:sft"`)."""

    name: str = Field(pattern=NAME)
    output: str = Field("runs", description="folder that holds run folders")
    stages: list[Stage] = Field(min_length=1)
