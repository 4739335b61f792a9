"""A question as an OpenAI chat completion request, and the answer read back.

The wire format is that of POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat);
the tests hold it to the request and response types of the official `openai` client.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from osler.data.views import View, shown
from osler.errors import BadInput
from osler.evaluate.printed import printable
from osler.evaluate.retries import LONGEST_RETRY_AFTER_SECONDS, Fault, parse_retry_after
from osler.evaluate.server import LIMIT_PARAMETERS
from osler.prompts import Template, messages
from osler.records import Completion, Question, TokenCounts
from osler.rollout.sampling import Sampling

IMAGE_FORMAT = "png"  # lossless: the server gets the pixels that a model here would get

_USELESS_FOR_ALL = {
    401: "the key is not accepted",
    402: "it wants to be paid first",
    404: "there is no such model or address",
}
_DENIED = 403  # of everything, or of one question by a moderator: many in a row tell
_PASSING = (408, 409, 425, 429)  # besides everything from 500 on
_OVERLOADED = (429, 502, 503, 504)
_OUT_OF_QUOTA = "insufficient_quota"
_LONGEST_SAID = 200
_TOKENS_OVER = 16  # some servers count their end tokens as well
_FINISHED = {"stop": "stop", "length": "length", "content_filter": "refusal"}


class Useless(BadInput):
    """The server will answer no question at all, as it was addressed; asking on would be pointless."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion with what the server said of itself."""

    completion: Completion
    served_model: str  # "" where not said
    fingerprint: str  # system_fingerprint, "" where not said


def image_url(path: str, min_pixels: int, max_pixels: int, view: View | None = None) -> str:
    """Data URI of the checked 8-bit RGB pixels of an image file, encoded anew; nothing else of the file.

    Raises BadInput where the file cannot be read as an image.
    """
    image = shown(path, min_pixels, max_pixels, view)
    encoded = io.BytesIO()
    image.save(encoded, IMAGE_FORMAT)
    return f"data:image/{IMAGE_FORMAT};base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"


def request_body(
    name: str,
    question: Question,
    template: Template,
    sampling: Sampling,
    *,
    min_pixels: int,
    max_pixels: int,
    view: View | None = None,
    limit_parameter: str = LIMIT_PARAMETERS[0],
) -> dict[str, Any]:
    """The JSON body: the same parts in the same order as for a local model, images as data URIs.

    A `seed` goes along where something is drawn; it depends on the run's seed and the question alone.
    Raises BadInput where an image cannot be read.
    """
    chat = messages(question, template)
    urls = iter([image_url(path, min_pixels, max_pixels, view) for path in question.images])
    for part in chat[0]["content"]:
        if part["type"] == "image":
            part.update(type="image_url", image_url={"url": next(urls)})
    body = {
        "model": name,
        "messages": chat,
        "temperature": sampling.temperature,
        limit_parameter: sampling.max_completion_tokens,
    }
    if sampling.temperature > 0:
        drawn = hashlib.sha256(f"{sampling.seed}\x1f{question.id}".encode()).digest()
        body["seed"] = int.from_bytes(drawn[:4], "big") >> 1
    return body


def read_response(
    status: int, headers: Mapping[str, str], content: bytes, limit: int, now: float
) -> Answered | Fault:
    """What came back: an answer, or why there is none. Raises Useless where no question can be answered.

    `limit` is the largest number of completion tokens asked for; `now` in Unix seconds.
    """
    if status != 200:
        return _refusal(status, headers, content, now)
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        kind = printable(headers.get("content-type", "no content type"))[:_LONGEST_SAID]
        return Fault(f"the answer is not JSON ({kind})", again=True, is_down=True)
    try:
        return _answer(payload, limit)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Fault(f"the answer is no chat completion ({error!r})"[:_LONGEST_SAID], again=False)


def _refusal(status: int, headers: Mapping[str, str], content: bytes, now: float) -> Fault:
    said, code = _error_said(content)
    reason = f"HTTP {status}" + (f": {said}" if said else "")
    if status in _USELESS_FOR_ALL:
        raise Useless(f"{_USELESS_FOR_ALL[status]} ({reason})")
    if code == _OUT_OF_QUOTA:
        raise Useless(f"the quota is used up ({reason})")
    if status < 500 and status not in _PASSING:
        return Fault(reason, again=False, is_down=status == _DENIED)
    wait = parse_retry_after(headers.get("retry-after"), now) if status in _OVERLOADED else None
    if wait is not None and wait > LONGEST_RETRY_AFTER_SECONDS:
        raise Useless(f"it asks to come back in {wait:.0f} s ({reason})")
    return Fault(reason, again=True, retry_after_seconds=wait, is_down=True)


def _error_said(content: bytes) -> tuple[str, str]:
    """Message and code of an error body, "" where it has none of the known forms."""
    try:
        error = json.loads(content)
        error = error.get("error", error)
        if isinstance(error, str):
            return printable(error)[:_LONGEST_SAID], ""
        said = str(error.get("message", "")).strip().partition("\n")[0]
        return printable(said)[:_LONGEST_SAID], str(error.get("code") or error.get("type") or "")
    except (ValueError, AttributeError, RecursionError):
        return "", ""


def _answer(payload: Any, limit: int) -> Answered:
    choice = payload["choices"][0]
    message = choice["message"]
    refused, text = message.get("refusal"), message.get("content")
    if not isinstance(text, str | None) or not isinstance(refused, str | None):
        raise ValueError("content is no text")
    reason = choice["finish_reason"]
    if reason not in _FINISHED:
        raise ValueError(f"finish_reason {reason!r}")
    counts = _counts(payload.get("usage"))
    if counts is not None and counts.completion > limit + _TOKENS_OVER:
        raise Useless(
            f"it wrote {counts.completion} tokens where at most {limit} were asked for, so it does not know "
            f"the parameter that limits them; try the other --limit-parameter ({', '.join(LIMIT_PARAMETERS)})"
        )
    completion = Completion(
        text=refused or text or "",
        token_ids=(),
        sampled_logprobs=(),
        finish_reason="refusal" if refused else _FINISHED[reason],
        counted=counts,
    )
    return Answered(completion, str(payload.get("model") or ""), str(payload.get("system_fingerprint") or ""))


def _counts(usage: Any) -> TokenCounts | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (prompt, completion)):
        return None
    return TokenCounts(prompt, completion)  # type: ignore[arg-type]
