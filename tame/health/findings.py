"""What a check finds: a state, in words, with advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tame.utils.checks import shown

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What kind of thing it is: versions, devices, disk, images, lists or runs.
        about: Its name, such as a file.
        state: ``ok``; ``note``: it works, but may surprise; or ``problem``: it will fail or give wrong numbers.
        found: What was found.
        advice: What to do about it; empty where there is nothing to do.
    """

    topic: str
    about: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; its ``str`` is a text with the advice below each finding that needs some."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are problems."""
        return [each for each in self.findings if each.state == "problem"]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the findings as plain values."""
        return [asdict(each) for each in self.findings]

    def __str__(self) -> str:
        lines: list[str] = []
        for topic in dict.fromkeys(each.topic for each in self.findings):
            lines.append(topic)
            for each in (each for each in self.findings if each.topic == topic):
                lines.append(f"  {each.state:8}{shown(each.about)}: {shown(each.found)}")
                lines += [f"          -> {shown(each.advice)}"] if each.advice else []
        count = len(self.problems)
        return "\n".join([*lines, f"{count or 'no'} problem{'s' * (count != 1)}"])
