"""What of a config is still to make: one answer, for `check` that estimates it and `generate` that makes it."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from eval.config import Entry
from eval.runs import Run


@dataclass(frozen=True)
class Batch:
    """Samples that one method makes at once."""

    method: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be made of the first `samples` of a list.

    entries: the runs, by name. done: by run, the samples with a finished result, also later ones of the list.
    inputs: the samples without image or mask at evaluation size. drawings: pictures of toy COCO, where it is not
    drawn yet.
    """

    samples: int
    entries: Mapping[str, Entry]
    done: Mapping[str, frozenset[int]]
    inputs: tuple[int, ...]
    drawings: int = 0

    @classmethod
    def of(cls, entries: Sequence[Entry], samples: int, run: Run | None, drawings: int = 0) -> "Plan":
        """What these runs lack in the results folder `run`; None where there is none yet."""
        return cls(
            samples,
            {entry.name: entry for entry in entries},
            {entry.name: _finished(run, entry) if run else frozenset() for entry in entries},
            tuple(i for i in range(samples) if not (run and run.mask_path(i).is_file())),
            drawings,
        )

    def left(self, name: str) -> list[int]:
        """The samples that a run has no result of, ascending."""
        return [index for index in range(self.samples) if index not in self.done[name]]

    @property
    def results(self) -> int:
        """How many results are to be made."""
        return sum(len(self.left(name)) for name in self.entries)

    @property
    def made(self) -> int:
        """How many results of the samples are there."""
        return self.samples * len(self.entries) - self.results

    @property
    def evaluations(self) -> float:
        """About how often the UNet is evaluated for one picture, for all of them."""
        return sum(len(self.left(name)) * entry.how.cost() for name, entry in self.entries.items())

    @property
    def pictures(self) -> int:
        """How many pictures come onto the disk: results, inputs and drawings; masks are small."""
        return self.results + len(self.inputs) + self.drawings

    def batches(self, name: str, sizes: Sequence[tuple[int, int]], batch_size: int) -> list[Batch]:
        """What a run is to make, in batches that can be made at once, in the order of their first samples.

        sizes: (height, width) of every sample. Which samples share a batch does not depend on what is done: in
        half precision a picture's rounding depends on its batch, and a run that was stopped should give the
        pictures of one that was not.
        """
        group_of = {size: self.entries[name].how.group(size) for size in set(sizes)}
        groups: dict[Hashable, list[int]] = {}
        for index, size in enumerate(sizes):
            groups.setdefault(group_of[size], []).append(index)
        whole = (
            indices[start : start + batch_size]
            for indices in groups.values()
            for start in range(0, len(indices), batch_size)
        )
        left = (tuple(index for index in batch if index not in self.done[name]) for batch in whole)
        return [Batch(name, indices) for indices in sorted(filter(None, left))]


def _finished(run: Run, entry: Entry) -> frozenset[int]:
    """The samples whose result is there, and of what its source still is."""
    rows = run.manifest(entry.name)
    return frozenset(
        index
        for index in run.done(entry.name)
        if all(rows[index].get(k, v) == v for k, v in entry.how.source(run.triplets[index], run).items())
    )
