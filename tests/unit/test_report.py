from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser

import pytest

from truing.errors import ConfigError
from truing.evals.statistics import wilson_interval
from truing.log import RunLog
from truing.report import write_report
from truing.report.charts import Curve, curve_chart
from truing.report.elements import el, html, number
from truing.report.read import read_folder

RECIPE = """\
name = "word-problems"
output = "runs"

[[stages]]
name = "imitate"
algorithm = "sft"
model = "smollm2-135m-instruct"
steps = 120
data = {train = {generator = "word_problems", count = 4000, seed = 0}}
evaluation = {data = {generator = "word_problems", count = 64, seed = 1}, verifier = "math_answer"}

[[stages]]
name = "reinforce"
algorithm = "grpo"
model = "stage:imitate"
steps = 150
data = {train = {generator = "word_problems", count = 4000, seed = 0}}
evaluation = {data = {generator = "word_problems", count = 64, seed = 1}, verifier = "math_answer"}
sampler = {group_size = 8, max_tokens = 128}
"""
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'text' \x00\x1b[31m \ud800"
)
PROMPTS = (
    "Mia has 4 boxes with 12 pencils each. She gives 9 pencils to Tom. How many pencils does she have now?",
    "A train leaves at 9:40 and arrives at 11:05. How many minutes does the journey take?",
    "Ben saves 3 dollars on each weekday. How many dollars does he have after 4 weeks?",
)


def evaluation(when, step, rate, *, num=64, seed=1, failed=0):
    """Return a record as the evaluator makes it; the same prompts are hard in every one of them."""
    hardness = random.Random(seed)
    outcomes = [
        int(hardness.random() * 0.8 + random.Random(step + i).random() * 0.2 < rate) for i in range(num)
    ]
    outcomes = [None] * failed + outcomes[failed:]
    scored = [o for o in outcomes if o is not None]
    low, high = wilson_interval(sum(scored), len(scored))
    statuses = {"scored": len(scored)} | ({"timed_out": failed} if failed else {})
    return {
        "when": when, "step": step, "num_prompts": num, "num_scored": len(scored), "passed": sum(scored),
        "rate": sum(scored) / len(scored), "low": low, "high": high, "mean_tokens": 61.0, "statuses": statuses,
        "outcomes": outcomes,
    }  # fmt: skip


def sft_stage(stage, num_steps=120):
    noise = random.Random(0)
    stage.evaluation(evaluation("before", 0, 0.14))
    held_out(stage, 0, num_steps)
    for step in range(num_steps):
        stage.metrics(step, {
            "loss/nll": 0.5 + 1.6 * math.exp(-step / 25) + noise.gauss(0, 0.05),
            "train/grad_norm": 1.2 + noise.random(), "train/clipped_fraction": 0.0,
            "train/learning_rate": 2e-5 * min(1, step / 5) * (1 + math.cos(math.pi * step / num_steps)) / 2,
            "train/completion_tokens": 1900.0 + noise.randrange(300),
            "time/collect_s": 0.01, "time/step_s": 2.1 + noise.random() / 5, "time/tokens_per_second": 900.0 + noise.gauss(0, 30),
        })  # fmt: skip
    stage.evaluation(evaluation("after", num_steps, 0.36))
    held_out(stage, num_steps, num_steps)


def grpo_stage(stage, num_steps=150, *, until=None):
    noise = random.Random(1)
    for step in range(until or num_steps):
        share = 0.32 + 0.35 * (1 - math.exp(-step / 60))
        stage.metrics(step, {
            "loss/policy": noise.gauss(0, 0.004), "reward/mean": share + noise.gauss(0, 0.04),
            "reward/std": 0.46 + noise.gauss(0, 0.01), "reward/dead_group_share": 0.2 + step / 500 + noise.random() / 10,
            "reward/math_answer_mean": share + noise.gauss(0, 0.04),
            "rollout/mean_tokens": 64 + 12 * math.sin(step / 20) + noise.gauss(0, 2),
            "rollout/truncated_share": max(0.0, 0.06 - step / 2000 + noise.gauss(0, 0.01)),
            "rollout/unscored_share": 0.0, "rollout/kept_group_share": 1.0,
            "mismatch/logprob_gap_mean": abs(noise.gauss(0.002, 0.0005)),
            "policy/entropy": 0.9 * math.exp(-step / 200) + noise.gauss(0, 0.02),
            "kl/k3_mean": step / 9000 + abs(noise.gauss(0, 0.001)),
            "train/grad_norm": 0.4 + noise.random() / 4, "train/learning_rate": 1e-6, "train/completion_tokens": 16000.0,
            "time/collect_s": 7.9, "time/annotate_s": 0.7, "time/step_s": 12.4 + noise.random(), "time/tokens_per_second": 1290.0 + noise.gauss(0, 40),
        })  # fmt: skip
        if step % 30 == 0:
            for number_ in range(2):
                stage.sample(step, prompt=f"What is {step + 17} times {number_ + 3}?", completion=f"{step + 17} times {number_ + 3} is {(step + 17) * (number_ + 3)}.",
                             reference=str((step + 17) * (number_ + 3)), reward=1.0, verdicts={"math_answer": {"status": "scored", "evidence": "equal"}}, finish_reason="stop")  # fmt: skip
        if step and step % 50 == 0:
            stage.evaluation(evaluation("step", step, 0.36 + step / 600))
            held_out(stage, step, num_steps)


def held_out(stage, step, num_steps):
    answers = (
        "Let me think. 4 boxes and 12 pencils is 16 pencils. 16 - 9 = 7. The answer is 7.",
        "4 boxes with 12 pencils each hold 4 * 12 = 48 pencils.\n48 - 9 = 39.\nThe answer is 39.",
    )
    for i, prompt in enumerate(PROMPTS):
        good = step > i * 50
        text = answers[good] if i == 0 else "So the answer is 85." if good else "I do not know " * 20
        verdict = {"status": "scored", "evidence": "equal" if good else "found 7, expected 39"}
        stage.sample(step, prompt=prompt, completion=text, reference=("39", "85", "60")[i], reward=float(good),
                     verdicts={"math_answer": verdict}, finish_reason="stop" if good or not i else "length", split="evaluation")  # fmt: skip


def fake_run(folder, *, status="finished", until=None):
    """Write the folder of a run of two stages; `until` is the step at which the second one ends early."""
    log = RunLog.create(
        folder, name="word-problems", recipe_toml=RECIPE, command="truing run recipes/quickstart.toml"
    )
    first = log.stage("imitate", "sft", 120)
    sft_stage(first)
    first.finish("finished")
    second = log.stage("reinforce", "grpo", 150)
    second.event(
        "checkpoint_refused", "checkpoints/step-000050 is incomplete: learner.safetensors is missing", step=50
    )
    grpo_stage(second, until=until)
    if until is None:
        second.evaluation(evaluation("after", 150, 0.62, failed=2))
        held_out(second, 150, 150)
        second.finish("finished")
    if status == "failed":
        log.event("error", "update 91 was not made: the loss of rows 3 and 7 is NaN", type="NonFiniteError")
    if status != "running":
        log.finish(status)
    return folder


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text outside of style and script."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self._raw = [], "", None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._raw = None

    def handle_data(self, data):
        self.text += "" if self._raw else data

    def count(self, tag, **wanted):
        return sum(
            t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted.items()) for t, a in self.tags
        )


def test_the_report_of_a_finished_run_shows_what_it_promises(tmp_path):
    page = Page(write_report(fake_run(tmp_path / "run")))
    stage = read_folder(tmp_path / "run").stages[1]
    difference = stage.difference
    assert difference.num_prompts == 62 and difference.gained is not None
    for text in (
        f"{100 * difference.difference:+.1f} points (95% {100 * difference.low:+.1f} to",
        "2 timed_out",
        "reward/dead_group_share",
        "61% collecting",
        "truing run recipes/quickstart.toml",
        'algorithm = "grpo"',
        "checkpoint_refused",
        "found 7, expected 39",
        "transformers",
    ):
        assert text in page.text, text
    assert page.count("figure", class_="curve") >= 12
    tips = [a["data-tip"] for _, a in page.tags if "data-tip" in a]
    assert any("look at reward/mean" in tip for tip in tips)


def test_it_opens_offline_and_runs_only_its_own_script(tmp_path):
    page = Page(write_report(fake_run(tmp_path / "run")))
    assert not [a for _, a in page.tags if {"src", "srcset", "action"} & set(a)]
    assert all(a["href"].startswith("#") for _, a in page.tags if "href" in a)
    assert not re.search(r"@import|url\(", page.source)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert page.count("script") == 1


def test_text_from_the_run_is_never_markup(tmp_path):
    log = RunLog.create(tmp_path / "run", name="x", recipe_toml=f'name = "{HOSTILE[:40]}"', command=HOSTILE)
    stage = log.stage("train", HOSTILE[:20], 2)
    stage.metrics(0, {f"loss/{HOSTILE}": 1.0})
    stage.metrics(1, {f"loss/{HOSTILE}": 2.0})
    for split in ("train", "evaluation"):
        stage.sample(0, prompt=HOSTILE, completion=HOSTILE, reference=HOSTILE, reward=1.0, split=split,
                     verdicts={HOSTILE: {"status": "scored", "evidence": HOSTILE}})  # fmt: skip
    stage.event(HOSTILE, HOSTILE, fact=HOSTILE)
    log.finish("failed")
    page = Page(write_report(log.folder))
    assert page.count("script") == 1 and page.count("img") == 0
    assert not [a for _, a in page.tags if "onerror" in a]
    shown = HOSTILE.translate({0: 0xFFFD, 0x1B: 0xFFFD, 0xD800: 0xFFFD})
    assert page.text.count(shown) >= 6


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("failed", "The run failed in stage reinforce, after 90 of 150 steps"),
        ("interrupted", "The run was interrupted in stage reinforce, after 90 of 150 steps"),
        ("running", "The run is not finished"),
    ],
)
def test_a_run_that_did_not_finish_is_told_as_such(tmp_path, status, said):
    page = Page(write_report(fake_run(tmp_path / "run", status=status, until=90)))
    assert said in page.text and "after 50 steps" in page.text
    assert ("NonFiniteError: update 91 was not made" in page.text) == (status == "failed")


def test_a_run_that_has_hardly_begun_has_a_report(tmp_path):
    log = RunLog.create(tmp_path / "run", name="x", recipe_toml="", command="")
    assert "No evaluation was made" in Page(write_report(log.folder)).text
    log.stage("train", "sft", 10)
    assert "No step was logged" in Page(write_report(log.folder)).text


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path):
    folder = fake_run(tmp_path / "run")
    (folder / "reinforce" / "metrics.jsonl").write_text("nonsense\n{}\n")
    (folder / "recipe.toml").write_text("= broken")
    page = Page(write_report(folder))
    assert "metrics.jsonl, line 1: not JSON" in page.text and "recipe.toml:" in page.text
    assert "loss/nll" in page.text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        write_report(tmp_path)


def test_a_later_stage_starts_where_the_one_before_ended(tmp_path):
    folder = fake_run(tmp_path / "run")
    first, second = read_folder(folder).stages
    assert first.start["when"] == "before" and second.start == first.end
    (folder / "recipe.toml").write_text(RECIPE.replace("seed = 1}, verifier", "seed = 2}, verifier", 1))
    assert read_folder(folder).stages[1].start is None  # another test: not to be compared


def test_an_evaluation_that_scored_nothing_has_no_rate(tmp_path):
    log = RunLog.create(tmp_path / "run", name="x", recipe_toml="", command="")
    stage = log.stage("train", "grpo", 1)
    none = {"num_prompts": 2, "num_scored": 0, "passed": 0, "rate": None, "low": 0.0, "high": 1.0,
            "outcomes": [None, None], "statuses": {"failed": 2}}  # fmt: skip
    stage.evaluation({"when": "before", "step": 0, **none})
    stage.evaluation({"when": "after", "step": 1, **none})
    assert "not scored" in Page(write_report(log.folder)).text


def test_a_nan_breaks_the_curve_and_is_counted():
    values = [1.0, float("nan"), 2.0, float("inf"), 3.0]
    figure = curve_chart(Curve("loss/x", [float(i) for i in range(5)], values))
    path = next(e for e in figure.iter("path"))
    assert path.get("d").count("M") == 3 and "nan" not in path.get("d").lower()
    assert "2 of 5 values are not finite" in "".join(figure.itertext())
    json.loads(figure.find("svg").get("data-points"))


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1e-9, 2e-9], [-1e12, 1e12], [math.nan], [3.0] * 5])
def test_any_range_has_an_axis(values):
    figure = curve_chart(Curve("x/y", [float(i) for i in range(len(values))], values))
    places = [float(line.get("y1")) for line in figure.iter("line")]
    assert 2 <= len(places) <= 6 and min(places) >= 8 and max(places) <= 130


def test_a_long_run_keeps_its_peaks_and_stays_small(tmp_path):
    values = [0.0] * 20000
    values[7777] = 9.0
    figure = curve_chart(Curve("x/y", [float(i) for i in range(20000)], values))
    raw = next(e for e in figure.iter("path") if "raw" in e.get("class"))
    heights = [float(p.split()[1]) for p in re.split("[ML]", raw.get("d")) if p]
    assert min(heights) < 20
    assert len(html(el("div", figure))) < 60_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.53124, "0.5312"),
        (12345.6, "12,346"),
        (1e-5, "1e-05"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers_read_well(value, text):
    assert number(value) == text
