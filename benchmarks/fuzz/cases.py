"""What a person wrote, and what they expect from it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from otr_plugin.config import OTRConfig

Word = str | tuple[str, ...]  # a tuple holds alternatives, one of which is enough
LONGEST_MESSAGE = 12  # lines


@dataclass(frozen=True)
class Active:
    """The run trains with OTR and these settings."""

    config: OTRConfig


@dataclass(frozen=True)
class Plain:
    """The run trains as without this package."""


@dataclass(frozen=True)
class Refusal:
    """What an error has to name: the words, and for each pair of the recipe that is wrong, one of its lines."""

    words: tuple[Word, ...]
    lines: tuple[range, ...] = ()

    def problem_in(self, message: str, by_host: bool = False) -> str | None:
        """Why the message is not clear, if it is not. A host's own message need not name lines."""
        for word in self.words:
            if not any(alternative in message for alternative in ((word,) if isinstance(word, str) else word)):
                return f"the message does not name {word!r}"
        named = {int(number) for number in re.findall(r"(?:lines? |\w:|and |, )(\d+)", message)}
        for lines in () if by_host else self.lines:
            if not named & set(lines):
                return "the message does not name the line"
        return None


@dataclass(frozen=True)
class Refused:
    """One clear error. With several mistakes, the error may name any one of them."""

    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class Either:
    """Two readings that a person may hold; the host's has to be one of them."""

    one: Active | Plain
    other: Active | Plain | Refused


Outcome = Active | Plain | Refused | Either


@dataclass
class Case:
    """A recipe, a command line and an environment, with the outcome that a person expects."""

    host: str
    file: str
    text: str
    outcome: Outcome
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    sweep: str | None = None  # the text of Axolotl's second file, which names the values to sweep over
    after_otr: bool = False  # a right recipe with OTR is read first, in the same process
    mutations: tuple[str, ...] = ()

    def __str__(self) -> str:
        variables = "".join(f"{name}={shlex.quote(value)} " for name, value in self.environment.items())
        lines = [
            f"{self.host} ({', '.join(self.mutations) or 'no mutation'})",
            f"$ {variables}{self.host} {self.file} {shlex.join(self.command)}",
            *(
                f"{number:3} | {line.encode('unicode_escape').decode()}"
                for number, line in enumerate(self.text.split("\n"), 1)
            ),
        ]
        if self.sweep is not None:
            lines.append(f"sweep: {self.sweep!r}")
        if self.after_otr:
            lines.append("after a recipe with OTR in the same process")
        return "\n".join(lines) + f"\nexpected: {self.outcome}"


@dataclass(frozen=True)
class Reading:
    """What the host made of a case: an error, or the settings that the run would train with, or plain training."""

    config: OTRConfig | None = None
    plain: dict[str, str] | None = None  # the host's own settings, as text
    error: str | None = None
    error_type: str = ""

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.error_type}: {self.error}"
        return f"OTR with {self.config!r}" if self.config is not None else "plain training"


def judge(outcome: Outcome, reading: Reading, host_refuses: re.Pattern[str]) -> str | None:
    """Why the reading is not the expected outcome, in a few words; None if it is.

    `host_refuses` matches the messages with which the host itself rejects a recipe by name.
    """
    match outcome:
        case Either():
            problems = [judge(option, reading, host_refuses) for option in (outcome.one, outcome.other)]
            return None if None in problems else problems[0]
        case Active():
            if reading.error is not None:
                return "refused, but it is right"
            if reading.config is None:
                return "trains without OTR"
            return None if reading.config == outcome.config else "trains with other settings"
        case Plain():
            if reading.error is not None:
                return "refused, but it has nothing to do with OTR"
            return None if reading.config is None else "trains with OTR"
        case Refused():
            if reading.error is None:
                return "not refused"
            by_otr = bool(re.search(r"\botr\b: |OTRConfig: ", reading.error))
            if not by_otr and not host_refuses.search(reading.error):
                return "the message is not OTR's"
            if reading.error.count("\n") >= LONGEST_MESSAGE:
                return f"the message has more than {LONGEST_MESSAGE} lines"
            problems = [refusal.problem_in(reading.error, not by_otr) for refusal in outcome.refusals]
            return None if None in problems else problems[0]
