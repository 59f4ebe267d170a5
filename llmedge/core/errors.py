"""Every error a user can meet, each with its exit code and the next thing to do.

    LlmedgeError                1   base; never raised itself
    ├── UsageError              2   a flag, value, reference or recipe that cannot be meant
    │   └── ContextLengthError  2   a prompt longer than the context
    ├── NotFoundError           3   a model, revision, file or device that is not there
    ├── UnsupportedError        4   understood, but not possible here or not shown to be right
    │   └── MissingExtraError   4   an optional part of llmedge is not installed
    ├── ResourceError           5   memory, disk or time ran out; a device was lost
    │   ├── EngineError         5   llama.cpp gave up while computing
    │   ├── BusyError           5   too much is asked at once; later it may work
    │   └── DeadlineError       5   it took longer than it may
    ├── IntegrityError          6   a file is truncated, malformed or not what it says
    ├── JudgementError          7   judged and failed: a gate, a check
    ├── UntrustworthyError      8   a measurement that must not be used
    ├── NetworkError            9   the network or access to something on it
    │   └── ConnectionLostError 9   a broken line or a busy server; later it may work
    └── InterruptedByUser     130   Ctrl-C
        └── Terminated        130   asked to end by the system or another program

Anything else that reaches `cli.app.main` is a bug and shows its traceback. `serve` maps the same
tree to OpenAI error objects.
"""

from __future__ import annotations


class LlmedgeError(Exception):
    """An error with a message that names the wrong value and a hint that says what to do next.

    Args:
        message: What is wrong, with the value that is wrong.
        hint: The next command or change, or an empty string where there is none.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[LlmedgeError], tuple[str, str]]:
        """Survive the way from a child process."""
        return type(self), (self.message, self.hint)


class UsageError(LlmedgeError):
    """A flag, value, reference or recipe that cannot be meant."""

    exit_code = 2


class ContextLengthError(UsageError):
    """A prompt that is longer than the context.

    Attributes:
        n_prompt: Tokens of the prompt; `None` where it was refused before they were counted.
        n_ctx: Tokens that the context holds; `None` where that was not what was exceeded.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        n_prompt: int | None = None,
        n_ctx: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class NotFoundError(LlmedgeError):
    """A model, revision, file or device that is not there."""

    exit_code = 3


class UnsupportedError(LlmedgeError):
    """Something understood that is not possible here, or not shown to be right."""

    exit_code = 4


class MissingExtraError(UnsupportedError):
    """An optional part of llmedge that is not installed."""


class ResourceError(LlmedgeError):
    """Memory, disk or time ran out, or a device was lost."""

    exit_code = 5


class EngineError(ResourceError):
    """llama.cpp gave up while computing."""


class BusyError(ResourceError):
    """Too much is asked at once; the same may work later.

    Attributes:
        retry_after_s: Seconds after which to ask again.
    """

    def __init__(self, message: str, hint: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class DeadlineError(ResourceError):
    """Something took longer than it may."""


class IntegrityError(LlmedgeError):
    """A file that is truncated, malformed or not what it says."""

    exit_code = 6


class JudgementError(LlmedgeError):
    """A gate or check that was judged and failed."""

    exit_code = 7


class UntrustworthyError(LlmedgeError):
    """A measurement that must not be used."""

    exit_code = 8


class NetworkError(LlmedgeError):
    """The network, or access to something on it."""

    exit_code = 9


class ConnectionLostError(NetworkError):
    """A broken line or a busy server; the same may work later.

    Attributes:
        retry_after_s: Seconds after which the server wants to be asked again, where it says so.
    """

    def __init__(self, message: str, hint: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class InterruptedByUser(LlmedgeError):  # noqa: N818 - what happened, not what failed
    """Ctrl-C."""

    exit_code = 130


class Terminated(InterruptedByUser):
    """Asked to end by the system or another program (SIGTERM)."""
