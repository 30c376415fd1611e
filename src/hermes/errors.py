"""Every way a request can fail: one tree, raised where known, rendered once in the client's dialect.

An error knows its HTTP status, a stable `code`, who is at fault (`source`), whether the gateway may try again
elsewhere before the first content byte (`retryable`), and the one outcome it gives the request (invariant I3).
"""

from enum import StrEnum
from typing import Literal

Source = Literal["client", "gateway", "backend"]


class Outcome(StrEnum):
    """The terminal outcomes. Every accepted request gets exactly one (invariant I3)."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    DENIED = "denied"
    LIMITED = "limited"
    QUEUE_FULL = "queue_full"
    DEADLINE_REFUSED = "deadline_refused"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_BACKEND = "no_backend"
    SHED = "shed"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"
    DRAINED = "drained"
    INTERNAL_ERROR = "internal_error"


class HermesError(Exception):
    """The root of what Hermes raises on purpose."""


class ConfigError(HermesError):
    """A setting that cannot be used. The message carries the path, the value and a hint."""


class StorageError(HermesError):
    """What must not be lost cannot be kept or read. `in_use`: for no other reason than that another Hermes has it."""

    def __init__(self, message: str, *, in_use: bool = False) -> None:
        super().__init__(message)
        self.in_use = in_use


# What no message tells, however it came into it: keys that backends are shown, which some repeat in their errors (I26).
_untold: set[str] = set()
# Anything shorter is part of ordinary words.
_SHORTEST_SECRET = 8


def never_tell(secret: str) -> None:
    """From now on *** stands for it in the messages of all errors. Something very short is no secret."""
    if len(secret) >= _SHORTEST_SECRET:
        _untold.add(secret)


def _masked(message: str) -> str:
    for secret in _untold:
        message = message.replace(secret, "***")
        for length in range(len(secret) - 1, _SHORTEST_SECRET - 1, -1):  # what it was cut from
            if message.endswith(secret[:length]):
                message = message[:-length] + "***"
    return message


class GatewayError(HermesError):
    """Ends one request. Subclasses fix the defaults; an instance may sharpen `code` and `param`.

    `should_retry` is what the SDKs are told; None: nothing, so that they try 408, 409, 429 and 5xx again.
    """

    status = 500
    code = "internal_error"
    source: Source = "gateway"
    outcome = Outcome.INTERNAL_ERROR
    retryable = False
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        if _untold:
            message = _masked(message)
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers
        if code is not None:
            self.code = code


# --- the client's fault -------------------------------------------------------------------------------------------


class BadRequest(GatewayError):
    status, code, source, outcome = 400, "invalid_value", "client", Outcome.BAD_REQUEST


class ContextLengthExceeded(BadRequest):
    code = "context_length_exceeded"


class RouteNotFound(BadRequest):
    status, code = 404, "not_found"


class ModelNotFound(BadRequest):
    status, code = 404, "model_not_found"


class RequestNotFound(BadRequest):
    status, code = 404, "request_not_found"


class BackendNotFound(BadRequest):
    status, code = 404, "backend_not_found"


class MethodNotAllowed(BadRequest):
    status, code = 405, "method_not_allowed"


class RequestTimeout(BadRequest):
    status, code = 408, "request_timeout"


class OnceInUse(BadRequest):
    """Its idempotency key has a run, which another try would take over: SDKs try again by themselves after a 409."""

    status, code = 409, "idempotency_key_in_use"


class OnceReused(BadRequest):
    status, code = 422, "idempotency_key_reused"


class BodyTooLarge(BadRequest):
    status, code = 413, "request_too_large"


class UriTooLong(BadRequest):
    status, code = 414, "uri_too_long"


class UnsupportedEncoding(BadRequest):
    status, code = 415, "unsupported_content_encoding"


class ExpectationFailed(BadRequest):
    status, code = 417, "expectation_failed"


class HeadersTooLarge(BadRequest):
    status, code = 431, "headers_too_large"


class LoopDetected(BadRequest):
    status, code = 508, "loop_detected"


class Unauthenticated(GatewayError):
    status, code, source, outcome = 401, "invalid_api_key", "client", Outcome.DENIED


class InvalidToken(Unauthenticated):
    """RFC 6750's: not that there is none, but that it is not good."""

    code = "invalid_token"


class TokenExpired(InvalidToken):
    code = "token_expired"


class IssuerUnavailable(GatewayError):
    """Whether a token is good cannot be said at present."""

    status, code, outcome = 503, "issuer_unavailable", Outcome.DENIED


class Forbidden(GatewayError):
    status, code, source, outcome = 403, "admin_only", "client", Outcome.DENIED


class ModelNotAllowed(Forbidden):
    """Said of any name that a key's patterns leave out, whether there is such a model or not."""

    code = "model_not_allowed"


class KeyNotFound(BadRequest):
    status, code = 404, "key_not_found"


class KeyRevoked(BadRequest):
    """That is for ever."""

    status, code = 409, "key_revoked"


class NameTaken(BadRequest):
    status, code = 409, "name_taken"


class Dismissed(GatewayError):
    """Somebody who may has sent it away. 499 is nginx's; what matters is that no SDK tries again."""

    status, code, source, outcome = 499, "cancelled", "client", Outcome.CANCELLED


# --- the gateway says no ------------------------------------------------------------------------------------------


class QueueFull(GatewayError):
    status, code, outcome = 429, "queue_full", Outcome.QUEUE_FULL


class RateLimited(GatewayError):
    status, code, outcome = 429, "rate_limit_exceeded", Outcome.LIMITED


class QuotaExceeded(GatewayError):
    status, code, outcome = 429, "insufficient_quota", Outcome.LIMITED


class QueueTimeout(GatewayError):
    """Its time is over. By itself no SDK shall wait all that time again."""

    should_retry = False
    status, code, outcome = 504, "queue_timeout", Outcome.QUEUE_TIMEOUT


class DeadlineUnreachable(GatewayError):
    """It would be too late: said before anything was spent on it, and when it may be worth another try."""

    should_retry = True
    status, code, outcome = 503, "deadline_unreachable", Outcome.DEADLINE_REFUSED


class InsufficientMemory(GatewayError):
    """It can never be loaded where it is allowed to be."""

    status, code, outcome = 503, "insufficient_memory", Outcome.NO_BACKEND


class LoadFailed(GatewayError):
    status, code, outcome = 503, "load_failed", Outcome.NO_BACKEND


class PullFailed(GatewayError):
    """Its model was to be downloaded for it."""

    status, code, outcome = 503, "pull_failed", Outcome.NO_BACKEND


class ModelPulling(GatewayError):
    """Its model is being downloaded, which takes longer than it could wait."""

    status, code, outcome = 503, "model_pulling", Outcome.NO_BACKEND


class NoBackend(GatewayError):
    status, code, outcome = 503, "no_backend", Outcome.NO_BACKEND


class Moved(NoBackend):
    """The configuration has changed while it waited. Who asks for tokens is asked for again, where that is now."""


class InvalidConfig(GatewayError):
    """It was read anew, and cannot be used: the last one stays in force."""

    status, code, source, outcome = 422, "invalid_config", "client", Outcome.BAD_REQUEST
    should_retry = False


class Draining(GatewayError):
    status, code, outcome = 503, "draining", Outcome.DRAINED


class RestartFailed(GatewayError):
    """No other process goes on: everything is as it was."""

    status, code, outcome = 409, "restart_failed", Outcome.BAD_REQUEST
    should_retry = False


class Overloaded(GatewayError):
    status, code, outcome = 503, "overloaded", Outcome.SHED


class NotStored(GatewayError):
    """What must not be lost cannot be written or read (invariant I32)."""

    status, code = 503, "not_stored"


# --- the backend failed -------------------------------------------------------------------------------------------


class BackendError(GatewayError):
    """The backend answered wrongly, broke off, or could not be reached."""

    status, code, source, outcome = 502, "backend_error", "backend", Outcome.UPSTREAM_ERROR
    retryable = True


class BackendUnreachable(BackendError):
    code = "backend_unreachable"


class BackendCrashed(BackendError):
    """It was gone before it had said anything: the request it was at may be what it died of."""


class BackendBusy(BackendError):
    """Back-pressure, not a fault: the backend's own queue is full or it is still loading."""

    status, code = 503, "backend_busy"


class BackendRefused(BackendError):
    """The backend understood and said no; trying again would not change its mind."""

    retryable = False


class LoadNotBegun(BackendError):
    """A load waits for room that was thought to be there."""


class BackendTimeout(BackendError):
    status, code, outcome = 504, "backend_timeout", Outcome.UPSTREAM_TIMEOUT
    retryable = False
