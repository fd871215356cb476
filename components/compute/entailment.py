"""Entailment: which classes of a classifier say whether one sentence follows from another?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Classes(NamedTuple):
    """Numbers of two classes, in the order in which their logits are compared.

    against: contradiction, or of two classes the other one, which is called not_entailment or the like.
    """

    against: int
    entailment: int


def classes_of(id2label: Mapping[Any, Any] | None) -> Classes | None:
    """The two classes, from `config.id2label`; None where no label begins with "entail"."""
    numbered = ((int(i), str(name).lower()) for i, name in (id2label or {}).items() if str(i).isdecimal())
    names = {name: i for i, name in numbered}
    entailment = next((i for name, i in names.items() if name.startswith("entail")), None)
    if entailment is None:
        return None
    others = sorted((not name.startswith("contra"), i) for name, i in names.items() if i != entailment)
    return Classes(others[0][1], entailment)
