"""The evaluation room: tasks put questions to a run, metrics score the answers, a result says how sure that is."""

from mmlm.evaluation.comparing import compare
from mmlm.evaluation.presence import presence
from mmlm.evaluation.rescoring import rescore
from mmlm.evaluation.result import Result
from mmlm.evaluation.runner import command, evaluate

__all__ = ["Result", "command", "compare", "evaluate", "presence", "rescore"]
