"""What the rest of our items take."""

from __future__ import annotations

from typing import Any

import targets
from items import Ours
from record import Steps


def steps(context: Any) -> Steps:
    ours = Ours(context)
    table: Steps = {n: lambda n=n: ours.rows(n) for n in ours.table if n not in targets.steps(context)}
    return {"B step": lambda: ours.steps("B"), **table}
