"""What a conversation is, in no dialect: the values every dialect reads and writes (hub and spoke).

All values are immutable and hold each other in no circle, so the garbage collector need take no notice of the most
frequent (`gc=False`). Text that is JSON on the wire stays text here (`ToolCall.arguments`); a JSON Schema is kept as
the plain object it was parsed to.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, final

from msgspec import Struct

Speaker = Literal["system", "user", "assistant"]
Role = Literal[Speaker, "tool"]
StopReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Text(Struct, frozen=True, tag="text"):
    text: str


class Image(Struct, frozen=True, tag="image"):
    """An image held in the request itself: `data` is base64 without a `data:` prefix."""

    media_type: str
    data: str


Part = Text | Image


class ToolCall(Struct, frozen=True):
    """One call the model asks for. `arguments` is JSON text as the model wrote it: maybe invalid, maybe no object."""

    id: str
    name: str
    arguments: str


@final
class Message(Struct, frozen=True, gc=False):
    """One text and nothing else, as nearly every message is: what has more to it is a `RichMessage`."""

    role: Speaker
    content: str


@final
class RichMessage(Struct, frozen=True):
    """What one side said, in full. Without anything but one text it means the same as a `Message`."""

    role: Role
    parts: tuple[Part, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    tool_name: str = ""


class Tool(Struct, frozen=True):
    """What a model may call. Its client knows it as one of a `namespace`; as one that takes a text if `freeform`."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    namespace: str = ""
    freeform: bool = False


class JsonFormat(Struct, frozen=True):
    """The answer must be JSON; with a `schema`, JSON that fits it."""

    schema: dict[str, Any] | None = None


class Sampling(Struct, frozen=True, gc=False):
    """How tokens are drawn. None: the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    typical_p: float | None = None


class LoadOptions(Struct, frozen=True, gc=False):
    """What a backend may have to load the model anew for, by Ollama's names. A negative `keep_alive_s` is for ever."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None
    draft_num_predict: int | None = None
    keep_alive_s: float | None = None


Thinking = Literal["off", "on", "low", "medium", "high", "max"]


class MustCall(Struct, frozen=True):
    """The answer has to be a call: of the tool of this name, or of any."""

    name: str = ""


ToolChoice = Literal["auto", "none"] | MustCall


class ChatRequest(Struct, frozen=True, gc=False):
    """One request for tokens, whatever dialect it came in.

    `completion` marks a bare prompt (one optional system text, one user text) that a backend may serve by its
    completion endpoint; one that is `raw` (no system text then) is put into no template of the model's, the answer to
    one with a `suffix` is what fits in between, and with `echo` the prompt itself begins it. `thinking` None leaves the
    choice to the backend; where it is `thinking_optional`, a model that cannot think answers without. Of one user's
    requests those of the lowest `priority` go first; `service_tier` is OpenAI's word for how urgent it is, "" if it
    does not say. How far `load_options` are heeded is the configuration's to say. `extra` are the fields
    of a body of OpenAI's that mean nothing here, for backends of that API that are known to take them.
    """

    model: str
    messages: tuple[Message | RichMessage, ...]
    stream: bool = False
    include_usage: bool = False
    completion: bool = False
    raw: bool = False
    suffix: str = ""
    echo: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    sampling: Sampling = Sampling()
    json_format: JsonFormat | None = None
    thinking: Thinking | None = None
    thinking_optional: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    priority: int = 0
    service_tier: str = ""
    load_options: LoadOptions | None = None
    extra: dict[str, Any] | None = None


class EmbedRequest(Struct, frozen=True, gc=False):
    """One request for embeddings: a vector for each text, of so many `dimensions` (None: as many as the model has).

    `truncate`: what is too long is cut, else the request fails. Not `normalised`: one text's vector as the model made
    it. `base64`: how the client wants numbers written. The others are as in a ChatRequest.
    """

    stream: ClassVar[bool] = False

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    truncate: bool = False
    normalised: bool = True
    base64: bool = False
    priority: int = 0
    service_tier: str = ""
    load_options: LoadOptions | None = None


# --- what comes back ----------------------------------------------------------------------------------------------


class TextDelta(Struct, frozen=True, gc=False):
    """A piece of the answer. `logprobs`: OpenAI's `content` items for the tokens in it."""

    text: str
    logprobs: tuple[dict[str, Any], ...] = ()


class ReasoningDelta(Struct, frozen=True, gc=False):
    text: str


class ToolCallDelta(Struct, frozen=True, gc=False):
    """A piece of one tool call: the first for an `index` carries id and name, later ones more of the arguments."""

    index: int
    arguments: str
    id: str = ""
    name: str = ""


# In one answer or prompt: more than any model has seen. A count beyond is a lie, like a negative one (I15).
MOST_TOKENS = 1 << 24


class Usage(Struct, frozen=True, gc=False):
    """Token counts as the backend reports them, and its own timings where it gives any (0.0: not told).

    `cached_tokens` are those of the prompt that it had read before.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    load_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    cached_tokens: int = 0

    def believed(self, sent_bytes: int, said: int) -> "Usage":
        """As far as it can be, by how long the request was and how many characters came: no tokenizer makes more of a
        byte than one token, and a character has at most four bytes.
        """
        most_prompt, most_output = sent_bytes + UNSEEN_TOKENS, 4 * said + UNSEEN_TOKENS
        if self.prompt_tokens <= most_prompt and self.completion_tokens <= most_output:
            return self
        prompt_tokens = min(self.prompt_tokens, most_prompt)
        output_tokens, cached_tokens = min(self.completion_tokens, most_output), min(self.cached_tokens, prompt_tokens)
        return Usage(prompt_tokens, output_tokens, self.load_s, self.prefill_s, self.decode_s, cached_tokens)


# What may be there all the same: a template around the prompt, thoughts that are counted and not told.
UNSEEN_TOKENS = 1 << 14


class Stop(Struct, frozen=True, gc=False):
    """The answer is complete. A stream that ends without one was truncated: an error, never a success.

    `text`: which of the stop texts ended it; "" where none did, or the backend does not tell.
    """

    reason: StopReason
    text: str = ""


class Failure(Struct, frozen=True, gc=False):
    """The backend says, inside its answer, that it failed. `status`: as HTTP would have told it, if it says so."""

    message: str
    status: int = 0


StreamEvent = TextDelta | ReasoningDelta | ToolCallDelta | Usage | Stop | Failure


class Answer(Struct, frozen=True, gc=False):
    """A whole answer: what the events of a stream add up to."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    reason: StopReason
    logprobs: tuple[dict[str, Any], ...] = ()
    stop_text: str = ""

    @property
    def characters(self) -> int:
        calls = sum(len(call.name) + len(call.arguments) for call in self.tool_calls)
        return len(self.text) + len(self.reasoning) + calls


class Embeddings(Struct, frozen=True, gc=False):
    """A vector for each text, in their order."""

    vectors: list[list[float]]
    usage: Usage


def collect(events: Iterable[StreamEvent]) -> Answer | Failure | None:
    """Add a stream's events up. Returns the Failure if there was one, None if the stream never stopped."""
    text: list[str] = []
    reasoning: list[str] = []
    logprobs: list[dict[str, Any]] = []
    calls: dict[int, ToolCall] = {}
    usage = Usage()
    stop: Stop | None = None
    for event in events:
        if type(event) is TextDelta:
            text.append(event.text)
            logprobs += event.logprobs
        elif type(event) is ReasoningDelta:
            reasoning.append(event.text)
        elif type(event) is ToolCallDelta:
            call = calls.get(event.index, ToolCall("", "", ""))
            calls[event.index] = ToolCall(
                call.id or event.id, call.name or event.name, call.arguments + event.arguments
            )
        elif type(event) is Usage:
            usage = event
        elif type(event) is Stop:
            stop = event
        elif type(event) is Failure:
            return event
    if stop is None:
        return None
    ordered = tuple(calls[index] for index in sorted(calls))
    return Answer("".join(text), "".join(reasoning), ordered, usage, stop.reason, tuple(logprobs), stop.text)
