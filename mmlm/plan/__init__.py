"""The plan: what a config would build, train and cost, known before any download.

Everything is built on the meta device, so no weight is allocated and none is fetched.
"""

from mmlm.plan.lines import PartLine, Plan, StageLine, StreamLine
from mmlm.plan.making import plan
from mmlm.plan.memory import Memory
from mmlm.plan.work import Work

__all__ = ["Memory", "PartLine", "Plan", "StageLine", "StreamLine", "Work", "plan"]
