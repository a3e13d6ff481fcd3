"""Answers to calls: vectors made for many calls at a time, corrupted by faults, serialised as the vendor does."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np

from flowbed.testing.simulators.wire import Vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flowbed.testing.simulators.faults import Fault
    from flowbed.testing.simulators.vectors import MakeVectors
    from flowbed.testing.simulators.wire import Answer, Api, Call

# Vectors made at a time for a job; more would save nothing.
AT_ONCE = 256


def answers(
    api: Api, make: MakeVectors, calls: Iterable[Call], due: Sequence[Fault] = ()
) -> Iterator[Answer]:
    """Answer calls in their order."""
    for (model, width, input_type), alike in groupby(
        calls, key=lambda call: (call.model, api.width(call), call.input_type)
    ):
        while some := list(islice(alike, AT_ONCE)):
            rows = make(model, [text for call in some for text in call.texts], width, input_type)
            for call in some:
                number = len(call.texts)
                vectors = Vectors(rows=rows[:number], labels=range(number))
                rows = rows[number:]
                for fault in due:
                    vectors = spoiled(fault, vectors)
                yield api.write(call, vectors)


def spoiled(fault: Fault, vectors: Vectors) -> Vectors:
    """Return what a faulty provider would answer instead of these vectors."""
    rows, labels = vectors.rows, vectors.labels
    match fault.kind:
        case "wrong_order":
            return Vectors(rows=rows[::-1], labels=labels[::-1])
        case "wrong_index":
            return Vectors(rows=rows, labels=[0] * len(labels))
        case "wrong_dimension":
            return Vectors(rows=rows[:, :-1], labels=labels)
        case "missing":
            return Vectors(rows=rows[:-1], labels=labels[:-1])
        case "not_finite":
            rows = rows.copy()
            rows[-1:] = np.nan
            return Vectors(rows=rows, labels=labels)
    return vectors
