"""Any OpenAI-compatible server as the model: `openai:URL#name`.

Questions are asked side by side, and every answer is handed on the moment it is there. A request that fails
for a passing reason is made again, later each time; a question that stays without an answer is an error,
never a choice. The key comes from an environment variable and goes into the request's header, nowhere else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import httpx2

from osler.data.views import View
from osler.errors import BadInput
from osler.evaluate.chat_wire import (
    IMAGE_FORMAT,
    Answered,
    Useless,
    read_response,
    request_body,
)
from osler.evaluate.replies import Reply, read_reply
from osler.evaluate.retries import Fault, back_off_seconds
from osler.evaluate.server import Address, EndpointOptions
from osler.prompts import Template
from osler.records import Completion, Prediction, Question
from osler.rollout.sampling import Sampling

LARGEST_ANSWER_BYTES = 8 * 2**20
FAULTS_IN_A_ROW = 8  # questions that the server, not their content, left unanswered; then it counts as gone
_LONGEST_SLEEP_SECONDS = 5.0  # then it is looked whether to stop
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerGone(OSError):
    """The server answers nothing any more. What it answered is on disk."""


@dataclass(frozen=True)
class Timing:
    """Clocks, sleep and chance, so that tests wait for nothing."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    rng: random.Random = field(default_factory=random.Random)


class Endpoint:
    """An answering model (`osler.evaluate.replies.AnsweringModel`) behind a server."""

    def __init__(
        self,
        address: Address,
        options: EndpointOptions,
        *,
        min_pixels: int,
        max_pixels: int,
        note: Callable[[str], None] = lambda text: None,
        timing: Timing | None = None,
    ) -> None:
        self.address, self.options, self.note = address, options, note
        self.timing = timing or Timing()
        self.pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self.view: View | None = None
        self.served: Counter[str] = Counter()  # model id and fingerprint as the server states them
        self.retried: Counter[str] = Counter()  # reason -> requests that failed with it
        self._not_before = 0.0  # on the monotonic clock
        self._faults_in_a_row = 0
        self._stop: BaseException | None = None
        if self._key and not address.url.startswith("https:") and address.host not in _LOOPBACK:
            note(f"endpoint: the key goes to {address.host} over plain http, readable on the way")

    @property
    def _key(self) -> str:
        return self.options.key

    @property
    def settings(self) -> dict[str, Any]:
        """What changes an answer, beside the sampling."""
        parameter = self.options.limit_parameter
        return {**self.pixels, "image_format": IMAGE_FORMAT, "limit_parameter": parameter}

    def seeing(self, view: View) -> Endpoint:
        """The same server, its counts shared, with every image shown through `view`."""
        other = copy(self)
        other.view = view
        return other

    def replies(
        self, questions: Sequence[Question], template: Template, sampling: Sampling, scorer: str
    ) -> Iterator[Sequence[tuple[Question, Reply]]]:
        """Every question with its reply, in the order in which the server answers.

        Raises BadInput where it cannot answer any question as it is addressed, ServerGone where it has
        stopped answering; both only after everything that is still under way has been handed on.
        """
        self._stop = None
        with asyncio.Runner() as runner:
            asking = self._ask_all(questions, template, sampling)
            while (finished := runner.run(_next(asking))) is not None:
                yield [(q, self._reply(q, result, template, scorer)) for q, result in finished]
        if self._stop is not None:
            raise self._stop

    def _reply(
        self, question: Question, result: Completion | Fault, template: Template, scorer: str
    ) -> Reply:
        if isinstance(result, Fault):
            return Reply.failed(result.reason)
        return read_reply(result, question, template, scorer)

    async def _ask_all(
        self, questions: Sequence[Question], template: Template, sampling: Sampling
    ) -> AsyncIterator[list[tuple[Question, Completion | Fault]]]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        waiting, running = iter(questions), set[asyncio.Task[tuple[Question, Completion | Fault] | None]]()
        # One deadline for the whole request stands around it, so the client has none of its own.
        limits = httpx2.Limits(max_connections=self.options.concurrency)
        async with httpx2.AsyncClient(headers=headers, timeout=None, limits=limits) as client:
            try:
                while True:
                    if self._stop is None:
                        for question in islice(waiting, self.options.concurrency - len(running)):
                            running.add(asyncio.create_task(self._ask(client, question, template, sampling)))
                    if not running:
                        return
                    finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    yield [result for task in finished if (result := task.result()) is not None]
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _ask(
        self, client: httpx2.AsyncClient, question: Question, template: Template, sampling: Sampling
    ) -> tuple[Question, Completion | Fault] | None:
        """One question with what came of it; None where it has to wait for another call."""
        try:
            body = request_body(
                self.address.name,
                question,
                template,
                sampling,
                **self.pixels,
                view=self.view,
                limit_parameter=self.options.limit_parameter,
            )
        except BadInput as error:
            return question, Fault(str(error), again=False)
        limit = sampling.max_completion_tokens
        for attempt in range(1, self.options.attempts + 1):
            await self._wait_for_turn()
            if self._stop is not None:
                return None
            try:
                result = await self._request(client, body, limit)
            except Useless as error:
                self._stop = self._stop or Useless(f"{self.address.url}: {self._without_key(str(error))}")
                return None
            if isinstance(result, Answered):
                self._faults_in_a_row = 0
                self.served[" ".join(filter(None, (result.served_model, result.fingerprint)))] += 1
                return question, result.completion
            fault = Fault(self._without_key(result.reason), result.again, is_down=result.is_down)
            self._count(fault)
            if not fault.again or attempt == self.options.attempts:
                return question, self._given_up(fault, attempt)
            await self._step_back(attempt, result.retry_after_seconds)
        raise AssertionError("unreachable: the last attempt returns")

    async def _request(
        self, client: httpx2.AsyncClient, body: dict[str, Any], limit: int
    ) -> Answered | Fault:
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self.options.timeout_seconds),
                client.stream("POST", f"{self.address.url}/chat/completions", json=body) as response,
            ):
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > LARGEST_ANSWER_BYTES:
                        return Fault(f"an answer of over {LARGEST_ANSWER_BYTES >> 20} MB", again=False)
        except TimeoutError:
            limit_seconds = self.options.timeout_seconds
            return Fault(f"no whole answer within {limit_seconds:g} s", again=True, is_down=True)
        except httpx2.RequestError as error:
            return Fault(f"{type(error).__name__}: {error}".rstrip(": "), again=True, is_down=True)
        return read_response(response.status_code, response.headers, bytes(content), limit, self.timing.now())

    async def _wait_for_turn(self) -> None:
        """Wait until no Retry-After holds the requests back."""
        while (left := self._not_before - self.timing.monotonic()) > 0 and self._stop is None:
            await self.timing.sleep(min(left, _LONGEST_SLEEP_SECONDS))

    async def _step_back(self, attempt: int, retry_after_seconds: float | None) -> None:
        if retry_after_seconds is not None:  # it is meant for all requests, not for this one alone
            until = self.timing.monotonic() + retry_after_seconds
            self._not_before = max(self._not_before, until)
        await self.timing.sleep(back_off_seconds(attempt, self.timing.rng))

    def _count(self, fault: Fault) -> None:
        if not self.retried[fault.reason]:
            self.note(f"endpoint: {fault.reason}{'; asking again, later' if fault.again else ''}")
        self.retried[fault.reason] += 1

    def _given_up(self, fault: Fault, attempts: int) -> Fault:
        if fault.is_down:
            self._faults_in_a_row += 1
            if self._faults_in_a_row >= FAULTS_IN_A_ROW and self._stop is None:
                self._stop = ServerGone(
                    f"{self.address.url}: {self._faults_in_a_row} questions in a row without an answer "
                    f"({fault.reason}); what was answered is on disk, the same command goes on from there"
                )
        said = f" ({attempts} attempts)" if attempts > 1 else ""
        return Fault(f"endpoint: {fault.reason}{said}", again=False)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def facts(self, predictions: Sequence[Prediction], earlier: Mapping[str, Any]) -> dict[str, Any]:
        """What the server said of itself, in this call and in `earlier` facts, and what `predictions` took.

        Tokens are those of the answers that are kept; what failed requests may have cost, nobody tells.
        """
        answered = [p for p in predictions if not p.error]
        prompt = sum(p.num_prompt_tokens for p in answered)
        completion = sum(p.num_tokens for p in answered)
        return {
            "url": self.address.url,
            "model": self.address.name,
            "served": dict(Counter(earlier.get("served")) + self.served),
            "failed_requests": dict(Counter(earlier.get("failed_requests")) + self.retried),
            "answers": len(answered),
            "unanswered": len(predictions) - len(answered),
            "answers_without_token_counts": sum(not p.num_prompt_tokens for p in answered),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prices_per_million": self.options.prices or None,
            "cost": self.options.cost(prompt, completion),
        }


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, None)
