"""What an ablation found, and its JSON.

{"schema": 1,
 "plan": PLAN,                    the YAML's content
 "dataset": "...",                what all models were asked, as `compact evaluate` calls it
 "base_identity": "0123...",      a hash of the files of the model that all were tuned from
 "units": [UNIT, ...],            the fields of `unit.Done`
 "lines": [LINE, ...]}            the fields of `comparison.Line`: all questions first, then each k
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from compact_hf.evaluation.ablation.plan import Plan
from compact_hf.evaluation.ablation.results import Line, Pair
from compact_hf.evaluation.ablation.variant import Done

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Ablation:
    """What an ablation found.

    Attributes:
        plan (`Plan`): what was done.
        dataset (`str`): what all models were asked, as `compact evaluate` calls it.
        base_identity (`str`): a hash of the files of the model that all were tuned from.
        units (`tuple[Done, ...]`): by variant and seed, in the plan's order.
        lines (`tuple[Line, ...]`): all questions, then each k.
        pairs (`tuple[Pair, ...]`): each variant's model with the baseline's, seed by seed.
    """

    plan: Plan
    dataset: str
    base_identity: str
    units: tuple[Done, ...]
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]

    def units_of(self, variant: str) -> tuple[Done, ...]:
        """Return a variant's units, one for each seed."""
        return tuple(unit for unit in self.units if unit.variant == variant)

    def to_json(self) -> dict[str, Any]:
        """Return it as ablation.json holds it."""
        return {
            "schema": SCHEMA,
            "plan": self.plan.told(),
            "dataset": self.dataset,
            "base_identity": self.base_identity,
            "units": [asdict(unit) for unit in self.units],
            "lines": [asdict(line) for line in self.lines],
            "pairs": [asdict(pair) for pair in self.pairs],
        }
