"""Planning: whether a model and a batch fit on a TPU that need not exist, and how fast at most."""

from jax_prompt.planning.planner import Memory, Plan, Speed, plan
from jax_prompt.planning.report import describe
from jax_prompt.planning.request import PlanRequest
from jax_prompt.planning.search import Suggestion, describe_suggestion, suggest

__all__ = ['Memory', 'Plan', 'PlanRequest', 'Speed', 'Suggestion', 'describe',
           'describe_suggestion', 'plan', 'suggest']
