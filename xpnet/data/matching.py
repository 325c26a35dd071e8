"""Which columns of another table are those that a run was trained on.

By name first, by position where one of the two has no header. What is missing or ambiguous is an
error: a file is never read by a guess that the run did not make.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xpnet.data.columns import LABEL_NAMES, Columns, listed
from xpnet.errors import DataError
from xpnet.settings import did_you_mean

__all__ = ["matched"]

Found = dict[int, int]  # from a column of the run to that of the other table


def matched(
    ours: Columns,
    path: Any,
    names: tuple[str, ...] | None,
    width: int,
    *,
    labelled: bool = True,
    chosen: Sequence[int] | None = None,
    index: Sequence[int] = (),
) -> Columns:
    """Return which columns of another table are ``ours``, in this order.

    ``names`` and ``width`` are those of the other table. It holds rows to predict unless
    ``labelled``; ``chosen`` are its columns that hold the labels, where they are not those of the
    run; ``index`` are columns that count rows. Raises DataError for a column that is missing or
    ambiguous.
    """
    return _Matching(ours, path, names, width, labelled, chosen, index).columns()


@dataclass(frozen=True)
class _Matching:
    ours: Columns
    path: Any
    names: tuple[str, ...] | None
    width: int
    labelled: bool
    chosen: Sequence[int] | None
    index: Sequence[int]

    def columns(self) -> Columns:
        ours, chosen = self.ours, self.chosen
        chosen = self._stand_in() if chosen is None else chosen
        by_name = self.names and ours.names
        found = self._by_name() if by_name else self._by_position(chosen)
        if not by_name:
            self._check_header(found)
        features = tuple(found[j] for j in ours.features)
        theirs = tuple(found[j] for j in ours.labels if j in found)
        labels = theirs if chosen is None else tuple(chosen)
        if clash := {*labels} & {*features}:
            name = self.names[min(clash)] if self.names else min(clash)
            msg = f"{self.path}: {name!r} is a feature of the run, and cannot be the label, too"
            raise DataError(msg)
        if self.labelled and (not labels or (chosen is None and len(labels) < len(ours.labels))):
            raise self._no_labels()
        weight = None if ours.weight is None else found.get(ours.weight)
        known = {*features, *labels, *theirs} | ({weight} - {None})
        kept = labels if self.labelled else ()
        used = {*features, *kept, weight}
        return Columns(
            features,
            kept,
            self.names,
            tuple((j, "not a column of the run") for j in range(self.width) if j not in used),
            notes=self._notes([j for j in range(self.width) if j not in known]),
            weight=weight,
            kinds=ours.kinds,
            levels=ours.levels,
            dates=ours.dates,
        )

    def _notes(self, rest: list[int]) -> tuple[str, ...]:
        """Say what was decided about a table of which ``rest`` is left out."""
        names, ours = self.names, self.ours
        if not names or not ours.names:
            one_sided = "columns are found by position: the run and this file do not both name them"
            return () if names == ours.names else (one_sided,)
        known = {ours.names[j] for j, _ in ours.left_out}
        new = [repr(names[j]) for j in rest if names[j] not in known]
        return (f"left out, because the run was not trained on it: {listed(new)}",) if new else ()

    def _by_name(self) -> Found:
        """Find the features, and the labels and the weight where the table has them."""
        ours, names = self.ours, self.names
        assert ours.names is not None
        assert names is not None
        weight = () if ours.weight is None else (ours.weight,)
        used = (*ours.features, *ours.labels, *weight)
        if names == ours.names:
            return {j: j for j in used}
        counts, theirs = Counter(ours.names[j] for j in used), Counter(names)
        if twice := [name for name in counts if max(counts[name], theirs[name]) > 1]:
            msg = f"{self.path}: several columns are named {twice[0]!r}; "
            raise DataError(msg + "give each a name of its own")
        at = {name: j for j, name in enumerate(names)}
        features = [ours.names[j] for j in ours.features]
        if missing := [name for name in features if name not in at]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            msg = f"{self.path}: no column {missing[0]!r}{more}; "
            raise DataError(msg + did_you_mean(missing[0], names[:99]))
        return {j: at[ours.names[j]] for j in used if ours.names[j] in at}

    def _by_position(self, chosen: Sequence[int] | None) -> Found:
        """Find them in a table without names, whose width says what it holds."""
        ours = self.ours
        usable = [j for j in range(self.width) if j not in {*self.index, *(chosen or ())}]
        labelled = self.labelled and chosen is None
        left_out = tuple(j for j, _ in ours.left_out)
        weight = () if ours.weight is None else (ours.weight,)
        bare = {(*ours.features, *a, *b) for a in ((), left_out) for b in ((), weight)}
        whole = {(*some, *ours.labels) for some in bare}
        held = whole if labelled else whole | bare
        fits = {tuple(sorted(some)) for some in held if len(some) == len(usable)}
        if len(fits) == 1:
            return dict(zip(*fits, usable, strict=True))
        if fits:
            msg = f"{self.path}: {len(usable)} columns without names, with or without the label? "
            raise DataError(msg + "write the header of the file that the run was trained on")
        if labelled and len(usable) in map(len, bare):
            raise self._no_labels()
        msg = f"{self.path}: features have shape ({len(usable)},); the run was trained on "
        raise DataError(msg + f"({len(ours.features)},)")

    def _check_header(self, found: Found) -> None:
        """Refuse a header that contradicts the position at which the label is expected."""
        names, label = self.names, self.ours.label
        named = [j for j, name in enumerate(names or ()) if name.lower() in LABEL_NAMES[:-1]]
        at = None if label is None or self.chosen is not None else found.get(label)
        if names and at is not None and named and at not in named:
            msg = f"{self.path}: column {named[0]} is {names[named[0]]!r}, but the run, which was "
            raise DataError(msg + f"trained on rows without a header, had its label at {at}")

    def _stand_in(self) -> Sequence[int] | None:
        """Return the column that is named as a label, where the run does not know its own."""
        if self.ours.labels:
            return None
        features, names = self.ours.feature_names or (), self.names or ()
        named = [j for j, n in enumerate(names) if n not in features and n.lower() in LABEL_NAMES]
        return named if len(named) == 1 else None

    def _no_labels(self) -> DataError:
        msg = f"{self.path}: has no labels to score against, only the features"
        if not self.ours.labels:
            msg = f"{self.path}: which column holds the labels? the run does not know"
        elif self.ours.names:
            names = self.names or ()
            lacking = [n for j in self.ours.labels if (n := self.ours.names[j]) not in names]
            msg += f" (no column {lacking[0]!r})" if lacking else ""
        return DataError(msg, python="label= names another column", command="--label names another")
