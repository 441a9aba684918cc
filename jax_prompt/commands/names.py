"""The names by which gin knows the project's constructors."""

from collections.abc import Callable

from jax_prompt.commands import contenders
from jax_prompt.commands.prompts import RegistryChange
from jax_prompt.comparison.run import ComparisonSettings
from jax_prompt.data.tasks.benchmarks import benchmark_task
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.mixture import Mixture, registered_mixture
from jax_prompt.data.tasks.prefix_lm import prefix_lm
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.reviews import imdb, rotten_tomatoes
from jax_prompt.data.tasks.suites import super_glue
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.make_design import DesignSettings
from jax_prompt.models.open import LayerSettings, MeshSettings, open_model
from jax_prompt.monitoring.monitor import Sources
from jax_prompt.monitoring.settings import MonitorSettings
from jax_prompt.planning.request import PlanRequest
from jax_prompt.predict.bulk import LineSettings
from jax_prompt.prompts import initializers
from jax_prompt.prompts.extended import extended
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.methods import METHODS
from jax_prompt.reading.settings import ReadingSettings
from jax_prompt.search import STRATEGIES
from jax_prompt.search.settings import SearchSettings
from jax_prompt.serving.settings import ServerSettings
from jax_prompt.sweep.study import SweepSettings
from jax_prompt.training import optimizers
from jax_prompt.training.settings import PromptSettings, TrainSettings

TASKS = {'rotten_tomatoes': rotten_tomatoes, 'imdb': imdb, 'prefix_lm': prefix_lm}

#: Constructors by their names in gin files.
CONFIGURABLES: dict[str, Callable] = TASKS | {
    'model': open_model,
    'mesh': MeshSettings,
    'layers': LayerSettings,
    'prompt': PromptSettings,
    'settings': TrainSettings,
    'comparison': ComparisonSettings,
    'plain': contenders.plain,
    'designed': contenders.designed,
    'searched': contenders.searched,
    'tuning': contenders.tuning,
    'study': SweepSettings,
    'plan_request': PlanRequest,
    'server': ServerSettings,
    'registry_change': RegistryChange,
    'monitor_sources': Sources,
    'monitor_settings': MonitorSettings,
    'reading': ReadingSettings,
    'lines': LineSettings,
    'answers': AnswerSettings,
    'design': DesignSettings,
    'layout': Layout,
    'file_task': file_task,
    'registered_task': RegisteredTask,
    'benchmark_task': benchmark_task,
    'mixture': Mixture,
    'registered_mixture': registered_mixture,
    'super_glue': super_glue,
    **METHODS,
    **STRATEGIES,
    'search_settings': SearchSettings,
    'uniform': initializers.uniform,
    'sampled_vocabulary': initializers.sampled_vocabulary,
    'class_labels': initializers.class_labels,
    'from_string': initializers.from_string,
    'from_array': initializers.from_array,
    'from_similar': initializers.from_similar,
    'best_of': initializers.best_of,
    'extended': extended,
    'adafactor': optimizers.adafactor,
    'adamw': optimizers.adamw,
    'per_parameter': optimizers.per_parameter,
    'warmup_schedule': optimizers.warmup_schedule,
}
