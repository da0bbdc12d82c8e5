"""What failed fills show: the two kinds of neglect that the paper starts from, counted.

A fill fails where the detector does not find the prompt in it. A model that neglects the prompt paints more of
what is nearby, or only background.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from eval.runs import Run

SHOWN = ("nearby object", "background", "other")
THRESHOLD = 0.3  # of the detector where its scores do not say


def neglect(
    run: Run, methods: Iterable[str], indices: Collection[int], threshold: float = THRESHOLD
) -> Counter[str] | None:
    """How often failed fills, of the samples `indices` by all runs of a method, show each of SHOWN.

    `nearby object`: the surest detection in the mask's box is of another label that the picture has; `other`: of
    one that it does not have; `background`: nothing is detected above the threshold.
    None where the detector has no scores.
    """
    counts: Counter[str] | None = None
    for method in methods:
        scores = run.scores(method, "accuracy")
        if scores is None or not {"acc", "best_label", "best_score"} <= set(scores):
            continue
        counts = Counter() if counts is None else counts
        for i in indices:
            if scores["acc"][i] == 0:
                label, score = scores["best_label"][i], scores["best_score"][i]
                counts[_shown(label, score, run.triplets[i].labels, threshold)] += 1
    return counts


def _shown(label: object, score: float, labels: str, threshold: float) -> str:
    if not isinstance(label, str) or not label or not score > threshold:
        return "background"
    return "nearby object" if label in labels.split(";") else "other"
