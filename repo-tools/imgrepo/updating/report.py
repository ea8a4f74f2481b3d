"""The report of an update, for each template and in all."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Outcome(enum.Enum):
    """The outcome of an update; ``exit_code`` is for other programs."""

    DONE = "done"
    NOTHING = "nothing to do"
    PARTLY = "partly done"
    FAILED = "failed"

    @property
    def exit_code(self) -> int:
        """The exit code of the command; 2 and 3 have their meaning in all commands."""
        return {Outcome.DONE: 0, Outcome.FAILED: 1, Outcome.NOTHING: 4, Outcome.PARTLY: 5}[self]


@dataclass
class TemplateReport:
    """The work of an update on one template.

    Attributes:
        renewed: Why its image was renewed; empty if it was not.
        steps: The result of each step, by its name; only those that were needed or had a result before.
        published: Whether the index has a new entry of it.
        problem: What went wrong; empty if nothing did.
    """

    name: str
    renewed: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    published: bool = False
    problem: str = ""


@dataclass
class UpdateReport:
    """The work of an update, or in a dry run the work that is due.

    Attributes:
        signed: Whether there is a newly signed index.
        changes: What else was done, one line each: pages, targets.
        problems: What went wrong apart from single templates, one line each.
        failed: Whether nothing could be published.
    """

    templates: list[TemplateReport] = field(default_factory=list)
    signed: bool = False
    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failed: bool = False

    @property
    def outcome(self) -> Outcome:
        """The outcome of all of it."""
        broken = [one for one in self.templates if one.problem]
        if self.failed or (broken and len(broken) == len(self.templates)):
            return Outcome.FAILED
        if broken or self.problems:
            return Outcome.PARTLY
        did = self.signed or self.changes or any(_did(one) for one in self.templates)
        return Outcome.DONE if did else Outcome.NOTHING


def _did(report: TemplateReport) -> bool:
    return bool(report.renewed or report.published or report.steps)
