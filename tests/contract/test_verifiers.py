"""What every verifier of `truing/verifiers/` promises; a new file is tested because it exists."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truing import plugins
from truing.errors import SandboxError
from truing.types import Verdict
from truing.verifiers import Example

NAMES = plugins.names("verifiers")
CASES = [(n, e) for n in NAMES for e in plugins.load("verifiers", n).EXAMPLES]
GARBAGE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="\\boxed{}^_$0129./,-+= ()fracsqt", max_size=60),
    st.text(alphabet="\\{}^_$0129./,-+=fracsqtx ", max_size=25).map(lambda s: f"\\boxed{{{s}}}"),
)


@pytest.mark.parametrize(
    ("name", "example"), CASES, ids=lambda v: v if isinstance(v, str) else v.completion[:24]
)
def test_examples_hold(name: str, example: Example) -> None:
    module = plugins.load("verifiers", name)
    try:
        verdict = module.verify(example.completion, example.reference, module.Config(**example.options))
    except SandboxError as error:
        if shutil.which("bwrap"):
            raise  # a sandbox that is here and does not confine is a failure
        pytest.skip(str(error))
    assert (verdict.status, verdict.value) == (example.status, example.value), verdict.evidence
    assert verdict.evidence
    assert verdict.time_s > 0


@pytest.mark.parametrize("name", NAMES)
def test_examples_cover_gold_wrong_malformed_and_a_cheat(name: str) -> None:
    examples = plugins.load("verifiers", name).EXAMPLES
    assert {e.kind for e in examples} == {"gold", "wrong", "malformed", "cheat"}
    assert all((e.kind == "gold") == (e.value == 1.0) for e in examples)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(completion=GARBAGE, reference=st.one_of(st.none(), st.integers(), st.just("\\sqrt{2}"), GARBAGE))
def test_peer_16_garbage_is_a_verdict_never_an_exception(
    name: str, completion: str, reference: object
) -> None:
    module = plugins.load("verifiers", name)
    verdict = module.verify(completion, reference, module.Config())
    assert isinstance(verdict, Verdict)
    assert verdict.status in ("scored", "unparsable", "timed_out", "failed")
    assert verdict.value is None or 0.0 <= verdict.value <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_options_are_checked_without_torch(name: str) -> None:
    code = (
        "import sys; from truing import plugins; "
        f"c = plugins.config_class('verifiers', {name!r}); c(); assert 'torch' not in sys.modules; "
        "\ntry: c(no_such_option=1)\nexcept ValueError: pass\nelse: raise SystemExit('accepted')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
