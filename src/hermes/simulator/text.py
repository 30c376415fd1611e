"""What a simulated model says: decided whole, before its first token, by model, prompt and seed alone.

A token is four characters, of prompts and of answers. A prompt may steer its own answer: `[[tokens:200]]` makes it
exactly that long.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hermes.simulator.gojson import Refusal
from hermes.simulator.models import SimulatedModel
from hermes.simulator.requests import ChatMessage, Inference, Options, ToolUse
from hermes.simulator.schema import NoSchema, sample

TOKEN_CHARS = 4
MESSAGE_TOKENS = 4  # what a chat template adds to each message
IMAGE_TOKENS = 256
LONGEST_TOKENS = 100_000
_OPEN_ENDED_CONTEXTS = 10  # "until it stops" is bounded to ten contexts (llm/llama_server.go, boundedNumPredict)
_READ_CHARS = 4096  # of a prompt, to find words in

_MARKER = re.compile(r"\[\[[^\[\]]{1,200}\]\]")
_LENGTH = re.compile(r"\[\[tokens:(\d{1,6})\]\]")
_WORD = re.compile(r"[^\W\d_][\w'-]{3,24}")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """about above after again also another answer because been before being below between both could does doing
        during each explain from further have having here into itself just like more most much only other over please
        same should some such tell than that their them then there these they this those through tool under until user
        very what when where which while will with would write your yours""",
    )
)

_OPENINGS = (
    "Let us look at {a} first, because the rest follows from it.",
    "The short answer is that {a} and {b} belong together.",
    "There are several ways to think about {a}, and none of them is complete.",
    "In plain words, {a} is less mysterious than it sounds.",
    "To understand {a}, it helps to begin with {b}.",
    "People often ask about {a}, and for good reason.",
)
_SENTENCES = (
    "Most of what is known about {a} comes from careful measurement.",
    "When {a} changes, {b} usually changes with it, though not at once.",
    "This is easy to see in a small example.",
    "A useful picture is a river: {a} is the water and {b} is its bed.",
    "Nobody needs to agree on every detail of {b} to use it well.",
    "The first attempts to describe {a} left out the most important part.",
    "In practice, {a} matters more than its reputation suggests.",
    "It would be a mistake to treat {a} and {b} as the same thing.",
    "The numbers support this, within the usual margins.",
    "Older accounts of {b} tell a different story.",
    "Under ordinary conditions {a} stays close to what one would expect.",
    "The exceptions are rare, and they are instructive.",
    "Taken together, {a} and {b} explain a good deal.",
    "What remains open is how far {a} can be stretched.",
    "One can test this at home with very little equipment.",
    "The same reasoning applies to {b}, with a little more patience.",
    "Early in the last century this was far from obvious.",
    "If {a} seems strange, that is because daily life rarely shows it.",
    "Engineers rely on {b} every day without giving it a thought.",
    "Seen from a distance, the details of {a} blur into a simple rule.",
)
_CLOSINGS = (
    "That is the essence of {a}.",
    "With that in mind, {a} becomes a matter of habit.",
    "In short: start with {a}, and keep {b} in view.",
    "Anything beyond this is a refinement.",
)
_THOUGHTS = (
    "The user wants to know about {a}.",
    "I should say what {a} has to do with {b}.",
    "An example would help here.",
    "Is {b} really relevant? Probably.",
    "Let me keep the order simple.",
    "I must not forget {a}.",
)
_THINKING_TOKENS = {"low": 12, "medium": 30, "high": 90, "max": 200}


class Script(Struct, frozen=True):
    """One answer, token by token. `silent_tokens` are decoded but never seen: tool calls, and the end of the text."""

    thinking: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    calls: tuple[ToolUse, ...] = ()
    silent_tokens: int = 0
    reason: str = "stop"

    @property
    def tokens(self) -> int:
        return len(self.thinking) + len(self.content) + self.silent_tokens


def count_tokens(text: str) -> int:
    return -(-len(text) // TOKEN_CHARS)


def split_tokens(text: str) -> tuple[str, ...]:
    return tuple(text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS))


def message_tokens(message: ChatMessage) -> int:
    calls = sum(count_tokens(call.name) + count_tokens(str(call.arguments)) for call in message.tool_calls)
    return MESSAGE_TOKENS + count_tokens(message.content) + calls + IMAGE_TOKENS * message.images


def prompt_tokens(request: Inference, messages: Sequence[ChatMessage]) -> int:
    tools = sum(count_tokens(tool.name) + count_tokens(str(tool.parameters)) for tool in request.tools)
    if request.raw:
        return sum(count_tokens(message.content) for message in messages)
    return sum(map(message_tokens, messages)) + tools + request.context_tokens


def compose(
    model: SimulatedModel, request: Inference, options: Options, num_ctx: int, room: int | None, default_seed: int
) -> Script:
    """The whole answer. `room`: tokens until the context is full, where it may not be shifted. Raises Refusal."""
    seed = default_seed if options.seed is None else options.seed
    rng = random.Random(_fingerprint(model.name, request.messages, seed))  # noqa: S311 - plausible, not secret
    last = request.messages[-1]
    words = keywords(_topic(request))
    natural = _natural(model, request, rng, last, words)
    limit = options.num_predict if options.num_predict >= 0 else _OPEN_ENDED_CONTEXTS * num_ctx
    stopped = _stop(natural, options.stop)
    return _cut(stopped, max(1, limit if room is None else min(limit, room)))


def _topic(request: Inference) -> str:
    """What the answer is about: the last prompt, and what tools have said since."""
    asked = [at for at, message in enumerate(request.messages) if message.role == "user"]
    return " ".join(message.content for message in request.messages[asked[-1] if asked else -1 :])


def keywords(text: str) -> tuple[str, ...]:
    """The words of a prompt that an answer can be about, in their order."""
    plain = _MARKER.sub(" ", text[:_READ_CHARS])
    found = (word for word in _WORD.findall(plain) if word.lower() not in _COMMON)
    return tuple(dict.fromkeys(found))[:12] or ("the question", "the answer")


def _natural(
    model: SimulatedModel, request: Inference, rng: random.Random, last: ChatMessage, words: Sequence[str]
) -> Script:
    """What the model would say if nothing cut it short. Its last silent token is the end of the text."""
    thinking = _think(model, request, rng, words)
    calls = _tool_calls(request, rng, last, words)
    if calls:
        written = sum(count_tokens(call.name) + count_tokens(str(call.arguments)) for call in calls)
        return Script(split_tokens(thinking), (), calls, silent_tokens=written + 1)
    return Script(split_tokens(thinking), split_tokens(_content(request, rng, last, words)), silent_tokens=1)


def _content(request: Inference, rng: random.Random, last: ChatMessage, words: Sequence[str]) -> str:
    if request.format not in (None, ""):
        return _json(request.format, rng, words)
    asked = _LENGTH.search(last.content)
    if asked is not None:
        length = min(int(asked[1]), LONGEST_TOKENS)
        return _prose(rng, words, length)[: length * TOKEN_CHARS]
    before = ""
    if last.role == "tool":
        before = f"According to {last.tool_name or 'the tool'}: {last.content[:200].strip()}. "
    if last.images:
        before += "The image shows this. " if last.images == 1 else f"The {last.images} images show this. "
    return before + _prose(rng, words, min(int(rng.lognormvariate(4.0, 0.6)), 400))


def _prose(rng: random.Random, words: Sequence[str], tokens: int) -> str:
    """Sentences, at least this many tokens of them. None comes again before all have been said."""
    sentences = [_sentence(rng, rng.choice(_OPENINGS), words)]
    length = len(sentences[0])
    deck: list[str] = []
    while length < tokens * TOKEN_CHARS:
        deck = deck or rng.sample(_SENTENCES, len(_SENTENCES))
        sentences.append(_sentence(rng, deck.pop(), words))
        length += len(sentences[-1]) + 1
    sentences.append(_sentence(rng, rng.choice(_CLOSINGS), words))
    return " ".join(sentences)


def _sentence(rng: random.Random, form: str, words: Sequence[str]) -> str:
    a, b = rng.sample(words, 2) if len(words) > 1 else (words[0], "everyday life")
    sentence = form.format(a=a, b=b)
    return sentence[0].upper() + sentence[1:]


def _think(model: SimulatedModel, request: Inference, rng: random.Random, words: Sequence[str]) -> str:
    """A model that can think does so unless told not to (server/routes.go: think unset is true)."""
    if "thinking" not in model.capabilities or request.think is False:
        return ""
    level = request.think if isinstance(request.think, str) else "medium"
    thoughts: list[str] = []
    while sum(map(len, thoughts)) < _THINKING_TOKENS[level] * TOKEN_CHARS:
        thoughts.append(_sentence(rng, rng.choice(_THOUGHTS), words))
    return " ".join(thoughts)


def _tool_calls(request: Inference, rng: random.Random, last: ChatMessage, words: Sequence[str]) -> tuple[ToolUse, ...]:
    """A user who names tools gets calls of them; one who says "tool" gets a call of the first."""
    if not request.tools or last.role != "user":
        return ()
    text = last.content.lower()
    wanted = [tool for tool in request.tools if tool.name and tool.name.lower() in text]
    if not wanted and "tool" in text:
        wanted = [request.tools[0]]
    topics = [word for word in words if not any(word.lower() in tool.name.lower() for tool in wanted)] or words
    made = [(tool.name, _fitting({"type": "object", **tool.parameters}, rng, topics)) for tool in wanted]
    return tuple(ToolUse(name, arguments if isinstance(arguments, dict) else {}) for name, arguments in made)


def _json(wanted: Any, rng: random.Random, words: Sequence[str]) -> str:
    if wanted == "json":
        wanted = {
            "type": "object",
            "properties": {"topic": {}, "summary": {"minLength": 30}, "relevance": {"type": "integer"}},
        }
    if not isinstance(wanted, dict):
        text = msgspec.json.encode(wanted).decode()
        quoted = msgspec.json.encode(text).decode()
        raise Refusal(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
    return msgspec.json.encode(_fitting(wanted, rng, words)).decode()


def _fitting(schema: dict[str, Any], rng: random.Random, words: Sequence[str]) -> Any:
    try:
        return sample(schema, rng, words)
    except NoSchema as error:
        message = msgspec.json.encode(f"JSON schema conversion failed:\n{error}").decode()
        text = f'{{"error":{{"code":400,"message":{message},"type":"invalid_request_error"}}}}'
        raise Refusal(400, text) from None


# --- what cuts an answer short --------------------------------------------------------------------------------------


def _stop(script: Script, stops: Sequence[str]) -> Script:
    """End before the first stop text. Its own tokens have been decoded, but are not seen."""
    text = "".join(script.content)
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return script
    at, stop = min(found)
    content = split_tokens(text[:at])
    return Script(script.thinking, content, silent_tokens=count_tokens(text[: at + len(stop)]) - len(content))


def _cut(script: Script, limit: int) -> Script:
    """At most `limit` tokens. A call that was not written to its end is no call."""
    if script.tokens <= limit:
        return script
    thinking = script.thinking[:limit]
    content = script.content[: limit - len(thinking)]
    return Script(thinking, content, (), limit - len(thinking) - len(content), "length")


def _fingerprint(model: str, messages: Sequence[ChatMessage], seed: int) -> int:
    digest = hashlib.blake2b(f"{model}\0{seed}".encode(), digest_size=8)
    for message in messages:
        digest.update(f"\0{message.role}\0{message.images}\0{message.content}".encode(errors="replace"))
    return int.from_bytes(digest.digest())
