"""Outcomes of attempts -> a table, and the attempts that fail each condition."""

from collections.abc import Mapping

from tests.first_attempt.attempt import Outcome

HEADER = (
    f"{'attempt':<28} {'exit statuses':<14} {'loss':>15} {'time':>6} {'est.':>6} {'ratio':>6} {'CPU':>11} "
    f"{'GB':>6} {'est.':>6} {'ratio':>6} {'scores':>6} {'captions':>8}  fails"
)


def line(name: str, outcome: Outcome) -> str:
    """Returns the line of an attempt."""
    statuses = " ".join(str(status) for status in outcome.statuses.values())
    loss = f"{outcome.first_loss:.2f} to {outcome.last_loss:.2f}"
    shares = f"{outcome.dry_cpu_share:.2f} to {outcome.cpu_share:.2f}"
    failed = ", ".join(outcome.failed_conditions()) or "-"
    text = (
        f"{name:<28} {statuses:<14} {loss:>15} {outcome.seconds:6.1f} {outcome.estimated_seconds:6.0f} "
        f"{outcome.time_ratio:6.2f} {shares:>11} {outcome.memory:6.2f} {outcome.estimated_memory:6.2f} "
        f"{outcome.memory_ratio:6.2f} {outcome.scores:6} {outcome.captions:8}  {failed}"
    )
    return f"{text}\n    {outcome.error}" if outcome.error else text


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """Returns the number of attempts that do well, and below it the attempts that fail each condition."""
    failing: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for condition in outcome.failed_conditions():
            failing.setdefault(condition, []).append(name)
    good = sum(not outcome.failed_conditions() for outcome in outcomes.values())
    lines = [f"{good} of {len(outcomes)} attempts meet all conditions"]
    for condition, names in failing.items():
        lines.append(f"{condition} fails in {len(names)}: {', '.join(names)}")
    return "\n".join(lines)
