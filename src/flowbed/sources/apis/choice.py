"""Find the channels or projects that options name, though some are called otherwise now, or are not shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.records import Problem
from flowbed.records.values import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowbed.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The ids of the `shown` places that are chosen, in order, and of `lost` ones: read before, and not shown now."""

    shown: tuple[str, ...]
    lost: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Return the ids of all."""
        return self.shown + self.lost


def chosen(
    wanted: Sequence[str],
    shown: Iterable[tuple[str, str]],
    before: Mapping[str, str],
    *,
    option: str,
    unknown: Callable[[str, str], Misconfigured],
    folded: Callable[[str], str] = str,
) -> Choice:
    """Choose among the places that are `shown`, each an id and its name; `wanted` are ids or names.

    `before` has the names of those that were read before, by their ids: a place that has another name now is still
    read, and one that is not shown any more is kept. `option` is how messages call the option; `unknown` makes the
    error of a name that fits none, to which a suggestion is given too. Names are equal where `folded` ones are.

    Raises:
        Misconfigured: a name fits none of them.
    """
    listed = list(shown)
    ids = {each for each, _ in listed}
    found: dict[str, None] = {}
    lost: dict[str, None] = {}
    problems = []
    for name in wanted:
        if fitting := [each for each, label in listed if folded(name) in (folded(each), folded(label))]:
            found.update(dict.fromkeys(fitting))
            continue
        earlier = [each for each, label in before.items() if folded(name) in (folded(each), folded(label))]
        if not earlier:
            raise unknown(name, suggestion(name, [label for _, label in listed]))
        for each in earlier:
            (found if each in ids else lost)[each] = None
        problems.append(_problem(name, [label for each, label in listed if each in earlier], earlier, option))
    return Choice(shown=tuple(found), lost=tuple(lost), problems=tuple(problems))


def _problem(name: str, labels: Sequence[str], ids: Sequence[str], option: str) -> Problem:
    if labels:
        return Problem(
            subject=name,
            reason=f"is called {labels[0]} now, and is read: write that in {option}",
            skipped=True,
        )
    return Problem(
        subject=name,
        reason="is not shown any more: it was deleted, or may not be read; what is indexed of it is kept until you"
        f" take it out of {option}",
        skipped=True,
        folder=f"{ids[0]}/",
    )
