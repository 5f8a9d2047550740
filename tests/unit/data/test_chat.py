"""Which tokens are trained, for templates of every habit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from truing.data.chat import added_text, render_conversation, render_prompt
from truing.errors import DataError, ModelError
from truing.types import Message, Row

Make = Callable[..., PreTrainedTokenizerFast]


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def trained_text(tokenizer: Any, row: Row) -> str:
    return str(tokenizer.decode([t for t, on in zip(row.tokens, row.mask, strict=True) if on]))


MARKERS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'].split('</think>')[-1] }}{% endgeneration %}<|im_end|>\n"
    "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS_THINKING = MARKERS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
ADDS_EMPTY_THINK = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDS_THE_CHAT = (  # as Phi-3: another special token closes the whole conversation
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}<|im_end|>{% endfor %}"
)


def test_peer_08_the_turn_end_is_trained_though_it_is_the_pad_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    row = render_conversation(tokenizer, [user("hi"), assistant("the answer")], "u")
    assert row.tokens[-1] == tokenizer.eos_token_id
    assert row.mask[-1] is True
    assert trained_text(tokenizer, row) == "the answer<|im_end|>"


def test_peer_06_the_mask_needs_no_generation_markers(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "generation %}" not in (tokenizer.chat_template or "").replace("add_generation", "")
    turns = [Message("system", "s"), user("hi"), assistant("one"), user("more"), assistant("two")]
    row = render_conversation(tokenizer, turns, "u")
    assert trained_text(tokenizer, row) == "one<|im_end|>two<|im_end|>"
    total = len(row.prompt_tokens) + len(row.tokens)
    assert 0 < sum(row.mask) / total < 1
    assert row.mask[0] and row.mask[-1]
    skipped = tokenizer.decode([t for t, on in zip(row.tokens, row.mask, strict=True) if not on])
    assert skipped == "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


def test_only_turns_from_first_on_are_trained(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [user("hi"), assistant("one"), user("more"), assistant("two")]
    row = render_conversation(tokenizer, turns, "u", first=3)
    assert trained_text(tokenizer, row) == "two<|im_end|>"
    assert row.prompt_tokens == render_prompt(tokenizer, turns[:3])


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1, max_size=20).filter(
    str.strip
)


@pytest.mark.parametrize("template", [None, ENDS_THE_CHAT, ADDS_EMPTY_THINK])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=WORDS, asked=WORDS)
def test_peer_05_prompt_ids_are_those_that_sampling_continues(
    make: Make, template: str | None, said: str, asked: str
) -> None:
    tokenizer = make(template) if template else make()
    row = render_conversation(tokenizer, [user(asked), assistant(said)], "u")
    assert row.prompt_tokens == render_prompt(tokenizer, [user(asked)])
    assert trained_text(tokenizer, row).removesuffix("<|im_end|>").strip().endswith(said.strip())
    assert row.tokens[-1] == tokenizer.eos_token_id


def test_peer_05_a_token_across_the_boundary_is_not_merged(tokenizer: PreTrainedTokenizerFast) -> None:
    joined = tokenizer.encode("\n\n", add_special_tokens=False)
    assert len(joined) == 1
    row = render_conversation(tokenizer, [user("hi"), assistant("\nthe")], "u")
    assert row.prompt_tokens == render_prompt(tokenizer, [user("hi")])
    assert joined[0] not in (*row.prompt_tokens, *row.tokens)
    assert trained_text(tokenizer, row) == "\nthe<|im_end|>"


def test_peer_09_a_template_that_strips_thinking_is_refused_with_the_row(make: Make) -> None:
    turns = [user("hi"), assistant("<think>a</think>b")]
    with pytest.raises(
        DataError, match=r"x.jsonl, row 7.*does not write the text of turn 2.*renders the row as"
    ):
        render_conversation(make(STRIPS_THINKING), turns, "u", where="x.jsonl, row 7")


def test_peer_09_its_generation_markers_are_used_where_it_has_them(make: Make) -> None:
    tokenizer = make(MARKERS)
    turns = [user("hi"), assistant("<think>a</think>b"), user("x"), assistant("c")]
    assert trained_text(tokenizer, render_conversation(tokenizer, turns, "u")) == "b<|im_end|>c<|im_end|>"
    assert trained_text(tokenizer, render_conversation(tokenizer, turns, "u", first=3)) == "c<|im_end|>"


def test_peer_09_what_the_template_adds_is_trained_and_reported(make: Make, tokenizer: Any) -> None:
    turns = [user("hi"), assistant("b")]
    thinking = make(ADDS_EMPTY_THINK)
    row = render_conversation(thinking, turns, "u")
    assert trained_text(thinking, row) == "<think>\n\n</think>\n\nb<|im_end|>"
    assert added_text(thinking, row, turns)
    assert not added_text(tokenizer, render_conversation(tokenizer, turns, "u"), turns)


def test_the_first_token_after_the_text_ends_the_turn(make: Make) -> None:
    tokenizer = make(ENDS_THE_CHAT, eos="<|endoftext|>")
    row = render_conversation(tokenizer, [user("a"), assistant(" one "), user("b"), assistant("two")], "u")
    assert trained_text(tokenizer, row) == "one<|im_end|>two<|im_end|>"


def test_the_same_text_in_two_turns_is_found_in_each(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [user("user"), assistant("a"), user("a"), assistant("a")]
    assert trained_text(tokenizer, render_conversation(tokenizer, turns, "u")) == "a<|im_end|>a<|im_end|>"


def test_a_template_without_a_turn_end_is_refused(make: Make) -> None:
    template = NO_END + "{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(DataError, match="no special token ends turn 2"):
        render_conversation(make(template), [user("a"), assistant("b")], "u")


def test_what_a_template_refuses_is_a_data_error(make: Make) -> None:
    with pytest.raises(DataError, match="roles must alternate"):
        render_conversation(make(ALTERNATES), [user("a"), user("b"), assistant("c")], "u")


@pytest.mark.parametrize("turns", [[user("a")], [user("a"), assistant(" ")]])
def test_nothing_to_train_is_an_error(tokenizer: Any, turns: list[Message]) -> None:
    with pytest.raises(DataError, match=r"no assistant turn|is empty"):
        render_conversation(tokenizer, turns, "u")


def test_plain_text_needs_no_template(make: Make) -> None:
    tokenizer = make(None)
    row = render_conversation(tokenizer, [user("2+2="), assistant("4")], "u")
    assert tokenizer.decode(row.prompt_tokens) == "2+2="
    assert trained_text(tokenizer, row) == "4<|im_end|>"
    assert row.prompt_tokens == render_prompt(tokenizer, [user("2+2=")])


def test_a_conversation_without_a_template_says_what_to_do(make: Make) -> None:
    with pytest.raises(ModelError, match=r"no chat template.*chat_template.jinja"):
        render_prompt(make(None), [Message("system", "s"), user("a")])


def test_no_double_bos(make: Make) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make("{{ bos_token }}" + "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)]
    )
    assert render_prompt(tokenizer, [user("a")]).count(0) == 1
    tokenizer.chat_template = None
    plain = render_prompt(tokenizer, [user("<|endoftext|>a")])
    assert plain.count(0) == 1
    assert tokenizer.eos_token_id not in plain
