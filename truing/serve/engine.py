"""One model and the thread that answers for it; requests that wait together are decoded together."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from truing.data.chat import render_prompt
from truing.errors import ConfigError, ModelError
from truing.model.load import eos_token_ids, load_model
from truing.rollout.asks import Answer, Ask, answer_all
from truing.rollout.hf import HFSampler, check_prompts
from truing.rollout.sampler import SamplingParams
from truing.types import Message

_WINDOW_S = 0.01  # how long a first request waits for company
_MAX_WAITING = 1024
_DEFAULT_TOKENS = 512
_WAKE_S = 0.2


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one request, how long its prompt was, and the seed that they were drawn from."""

    answers: Sequence[Answer]
    prompt_tokens: int
    seed: int


class Busy(Exception):
    """More requests wait than the engine takes."""


class Engine:
    """A loaded chat model with a queue of requests and one thread that decodes them."""

    def __init__(self, name: str, *, device: str = "auto", alias: str | None = None) -> None:
        """Load the model by name (a folder, a hub id or a built-in alias) and start the thread.

        Args:
            name: of the model.
            device: cpu, cuda, cuda:1 or mps; auto is a GPU where there is one.
            alias: what requests call it; its name when None.
        """
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        loaded = load_model(name, device=place)
        self.name, self.tokenizer = alias or name, loaded.tokenizer
        self._config = loaded.model.config.get_text_config()
        self._stops = eos_token_ids(loaded.model, loaded.tokenizer)
        self._sampler = HFSampler(loaded.model, loaded.tokenizer)
        self._queue: queue.Queue[tuple[Ask, Future[list[Answer]]]] = queue.Queue(_MAX_WAITING)
        self._closed = threading.Event()
        self.batches: list[int] = []  # how many requests each of the last passes held
        self._thread = threading.Thread(target=self._work, name="truing-engine", daemon=True)
        self._thread.start()

    def ask(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        stop_texts: Sequence[str] = (),
        num_top: int = 0,
    ) -> tuple[Ask, Future[list[Answer]]]:
        """Put a request in the queue; its answers come through the future.

        Args:
            messages: a conversation, rendered by the chat template that training uses.
            temperature: 0 is greedy.
            top_p: draw from the smallest set of likeliest tokens that holds this probability.
            max_tokens: of each completion; None takes 512 or what fits after the prompt.
            seed: None draws one.
            num_samples: completions of the conversation.
            stop_texts: a completion ends before the first of these.
            num_top: likeliest tokens to report at each position.

        Raises:
            ModelError: the prompt and max_tokens are over what the model's positions hold.
            ConfigError: a sampling parameter is out of its range.
            Busy: too many requests wait.
        """
        if self._closed.is_set():
            raise Busy("the server is stopping")
        prompt = render_prompt(self.tokenizer, messages)
        params = SamplingParams(
            max_tokens=max_tokens if max_tokens is not None else self._room(len(prompt)),
            stop_token_ids=self._stops,
            temperature=temperature,
            top_p=top_p,
            seed=secrets.randbits(31) if seed is None else seed,
        )
        if num_samples < 1:
            raise ConfigError(f"n is {num_samples}; it must be at least 1")
        check_prompts([prompt], params, self._config)
        ask = Ask(tuple(prompt), params, num_samples, tuple(stop_texts), num_top)
        future: Future[list[Answer]] = Future()
        try:
            self._queue.put_nowait((ask, future))
        except queue.Full:
            raise Busy(f"{_MAX_WAITING} requests wait already") from None
        return ask, future

    def close(self) -> None:
        """Finish the pass that runs, fail what waits, and end the thread."""
        self._closed.set()
        self._thread.join()
        while True:
            try:
                _, future = self._queue.get_nowait()
            except queue.Empty:
                return
            future.set_exception(Busy("the server is stopping"))

    def _room(self, prompt_tokens: int) -> int:
        limit = getattr(self._config, "max_position_embeddings", None)
        room = _DEFAULT_TOKENS if limit is None else min(_DEFAULT_TOKENS, int(limit) - prompt_tokens)
        if room < 1:
            raise ModelError(f"the prompt has {prompt_tokens} tokens, and the model {limit} positions")
        return room

    def _work(self) -> None:
        while not self._closed.is_set():
            waiting = self._gather()
            live = [(a, f) for a, f in waiting if f.set_running_or_notify_cancel()]
            if live:
                self._answer(live)

    def _gather(self) -> list[tuple[Ask, Future[list[Answer]]]]:
        """Return the next requests: the first to come and what arrives beside it."""
        try:
            found = [self._queue.get(timeout=_WAKE_S)]
        except queue.Empty:
            return []
        time.sleep(_WINDOW_S)
        while True:
            try:
                found.append(self._queue.get_nowait())
            except queue.Empty:
                return found

    def _answer(self, live: Sequence[tuple[Ask, Future[list[Answer]]]]) -> None:
        self.batches = [*self.batches[-99:], len(live)]
        try:
            found = answer_all(self._sampler, self.tokenizer, [ask for ask, _ in live])
        except Exception as error:  # whoever waits must learn of it, and the thread must go on
            for _, future in live:
                future.set_exception(error)
            return
        for (_, future), answers in zip(live, found, strict=True):
            future.set_result(answers)
