"""A judge as a term of the reward: checked in a recipe, asked about a whole step at once, trained against."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from truing.config import Reward
from truing.errors import ConfigError, VerifierError
from truing.recipe import recipe_from_dict
from truing.rewards import JudgeTerm, load_terms
from truing.train import pipeline
from truing.train.scoring import Scorer, require_scored, rollout_metrics
from truing.types import Completion, Message, Prompt


def recipe(rewards: dict[str, Any], model: object = "x/y", data: object = "prompts", **changes: Any) -> Any:
    whole = {
        "name": "r", "algorithm": "grpo", "model": str(model), "steps": 1, "batch_size": 2, "data": {"train": str(data)},
        "sampler": {"group_size": 4, "max_tokens": 8}, "rewards": rewards, **changes,
    }  # fmt: skip
    return recipe_from_dict(whole, source="test")


def table(endpoint: Any = None, **changes: Any) -> dict[str, Any]:
    url = endpoint.url if endpoint is not None else "http://127.0.0.1:9/v1"
    return {"judge": "pointwise", "endpoint": {"model": "m", "url": url, "max_tries": 1}, **changes}


def scored(scorer: Scorer, *texts: str) -> list[Any]:
    prompts = [Prompt(str(i), (Message("user", "?"),)) for i in range(len(texts))]
    said = [Completion((1, 2), t, (0.0, 0.0), "stop") for t in texts]
    return scorer(prompts, [(1,)] * len(texts), said, [0] * len(texts))


def long(request: dict[str, Any]) -> Any:
    text = str(request["messages"])
    return 500 if "broken" in text else f"<verdict>{10 if 'splendid' in text else 1}</verdict>"


def test_a_table_with_a_judge_is_a_term_and_all_completions_are_asked_at_once(endpoint):
    endpoint.answer, endpoint.delay_s = long, 0.05
    terms = load_terms({"judge": Reward(**table(endpoint, weight=2.0, options={"max_tokens": 64}))})
    assert isinstance(terms[0], JudgeTerm)
    found = scored(Scorer(terms), "splendid", "dull", "splendid", "broken")
    assert [r.reward for r in found] == [2.0, 0.0, 2.0, None]
    assert found[3].verdicts["judge"].status == "failed"
    assert endpoint.most_at_once >= 3
    assert {r["max_tokens"] for r in endpoint.requests} == {64}
    assert rollout_metrics(found, 8)["reward/judge_mean"] == pytest.approx(2 / 3)


def test_what_another_term_could_not_score_is_not_asked_about(endpoint):
    endpoint.answer = long
    tables = {"answer": Reward(verifier="math_answer"), "judge": Reward(**table(endpoint))}
    found = scored(Scorer(load_terms(tables)), "splendid")  # the prompt has no reference to compare with
    assert found[0].reward is None and not endpoint.requests


def test_peer_26_a_judge_that_fails_always_stops_the_run_and_says_why(endpoint):
    endpoint.answer = 401
    found = scored(Scorer(load_terms({"judge": Reward(**table(endpoint))})), "a", "b")
    assert [r.reward for r in found] == [None, None]
    with pytest.raises(VerifierError, match=r"judge: failed x2.*HTTP 401"):
        require_scored(1, found)


@pytest.mark.parametrize(
    ("rewards", "key", "message"),
    [
        (
            {"a": {"judge": "pointwize", "endpoint": {"model": "m"}}},
            "rewards.a.judge",
            "Did you mean 'pointwise'",
        ),
        ({"a": table(judge="pairwise")}, "rewards.a.judge", "judges no single completion"),
        ({"a": table(judge="client")}, "rewards.a.judge", "no Config"),
        ({"a": {"judge": "pointwise"}}, "rewards.a", "belong together"),
        ({"a": table(verifier="math_answer")}, "rewards.a", "both set"),
        ({"a": {"verifier": "math_answer", "endpoint": {"model": "m"}}}, "rewards.a", "belong together"),
        ({"a": table(options={"hihg": 5})}, "rewards.a.options.hihg", "high"),
        ({"a": table(options={"high": 0})}, "rewards.a.options", "no room"),
        (
            {"a": table(endpoint=None) | {"endpoint": {"ulr": "x", "model": "m"}}},
            "rewards.a.endpoint.ulr",
            "url",
        ),
        ({"a": {}}, "rewards.a", "no verifier, term or judge"),
    ],
)
def test_a_wrong_table_is_an_error_with_its_key(tmp_path, rewards, key, message):
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "hi"}\n')
    with pytest.raises(ConfigError) as caught:
        recipe(rewards, data=data)
    problems = [(p.key, f"{p.what} {p.right}") for p in caught.value.problems]
    assert any(k == key and message in text for k, text in problems), problems


def test_a_policy_trains_against_a_judge(endpoint, tiny_model: Path, tmp_path: Path):
    endpoint.answer = lambda request: f"<verdict>{1 + len(request['messages'][1]['content']) % 10}</verdict>"
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(4)))
    checked = recipe({"judge": table(endpoint)}, tiny_model, data, device="cpu", dtype="float32")
    pipeline.run(checked, folder=tmp_path / "run", quiet=True)
    lines = [
        json.loads(x) for p in (tmp_path / "run").rglob("metrics.jsonl") for x in p.read_text().splitlines()
    ]
    means = [x["reward/judge_mean"] for x in lines if "reward/judge_mean" in x]
    assert len(means) == 1 and math.isfinite(means[0])
    assert len(endpoint.requests) == 8


def test_a_model_in_this_process_judges(tiny_model: Path):
    from truing.judges.client import Reply, judge_from

    with judge_from({"model": str(tiny_model)}) as client:
        ask = [[Message("user", f"hi {i}")] for i in range(3)]
        first = client.ask(ask, max_tokens=6, temperature=1.0, seed=4, top_logprobs=3)
        again = client.ask(ask[1:2], max_tokens=6, temperature=1.0, seed=4, top_logprobs=3)
        too_long = client.ask([[Message("user", "x " * 100_000)]], max_tokens=6)
    assert all(isinstance(r, Reply) for r in first)
    assert again[0].text == first[1].text
    assert all(len(t.top) == 3 for t in first[0].logprobs)
    assert first[0].completion_tokens >= len(first[0].logprobs)
    assert too_long[0].status == "failed"
