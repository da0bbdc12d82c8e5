"""What a run is of and what made it, for people: what stands above every table."""

from collections.abc import Callable, Iterable

from eval.kinds import KINDS
from eval.models import weights_in
from eval.summary import Summary

SHORT = 12  # characters of a SHA-256


def provenance(summary: Summary) -> list[tuple[str, str]]:
    """(name, value) pairs: the samples, the model and its weights, in what was computed, the code's version.

    What older results do not say of themselves is "not recorded".
    """
    run, about = summary.run, summary.run.info

    def weights(method: str) -> list[str]:
        settings = run.method(method).get("settings") or {}
        return [(weights_in(settings) or "not recorded")[:SHORT]] if _has_network(summary, method) else []

    pairs = [
        ("run", run.path.resolve().name),
        *((key, value) for key, value in about["benchmark"].items() if not isinstance(value, dict | list)),
        ("model", about.get("model")),
        ("weights", _by_method(summary, weights)),
        ("size", about.get("size")),
        ("dtype", _by_method(summary, lambda m: run.dtypes(m) if _has_network(summary, m) else ())),
        ("batch", _by_method(summary, lambda m: run.noted(m, "batch") if _has_network(summary, m) else ())),
        ("code", _by_method(summary, lambda m: run.noted(m, "code") or ["not recorded"])),
        ("fingerprint", about.get("fingerprint")),
    ]
    return [(key, str(value)) for key, value in dict(pairs).items() if value is not None]


def _has_network(summary: Summary, method: str) -> bool:
    kind = KINDS.get(summary.run.method(method).get("kind", ""))
    return kind is not None and kind.has_network


def _by_method(summary: Summary, values: Callable[[str], Iterable[str]]) -> str | None:
    """The value of all methods; or each with the methods that have it, where they differ."""
    found: dict[str, list[str]] = {}
    for row in summary.measured:
        for member in row.members:
            for value in sorted(values(member)):
                found.setdefault(value, []).append(row.label)
    if len(found) < 2:
        return next(iter(found), None)
    return "; ".join(f"{value} ({', '.join(dict.fromkeys(labels))})" for value, labels in found.items())
