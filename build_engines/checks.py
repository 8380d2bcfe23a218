"""The result of comparing an engine with its reference."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One figure, held against its limit."""

    name: str
    figure: float
    unit: str
    limit: float
    ok: bool

    @classmethod
    def at_least(cls, name: str, figure: float, unit: str, limit: float) -> "Check":
        """A check that passes when `figure` is `limit` or more (and a number)."""
        return cls(name, figure, unit, limit, ok=figure >= limit)

    @classmethod
    def at_most(cls, name: str, figure: float, unit: str, limit: float) -> "Check":
        """A check that passes when `figure` is `limit` or less (and a number)."""
        return cls(name, figure, unit, limit, ok=figure <= limit)

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'FAILED'}: {self.name}: {self.figure:.4g} {self.unit} (limit {self.limit:g})"


class CheckFailed(Exception):
    """An engine differs too much from its reference; names every figure that does."""


def require(checks: list[Check]) -> None:
    """Raise CheckFailed unless all of `checks` are passed."""
    failed = [str(check) for check in checks if not check.ok]
    if failed:
        raise CheckFailed("; ".join(failed))
