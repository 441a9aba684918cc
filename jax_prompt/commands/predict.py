"""`jax-prompt predict`."""

import collections
from collections.abc import Iterator

from jax_prompt.commands.shared import check_types, json_line, open_prompt, require, result_file
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.generate import make_generator
from jax_prompt.inference.inputs import open_lines, read_inputs
from jax_prompt.inference.predict import Predictor, by_generation, by_rank, predict
from jax_prompt.inference.rank import make_label_scorer
from jax_prompt.prompts.file import PromptFile
from jax_prompt.training.frozen_model import FrozenModel


def predict_command(model: FrozenModel | None = None, prompt: str | None = None, inputs: str = '-',
                    output: str = '-', format: str | None = None, batch_size: int = 32,
                    window: int = 1024, allow_other_model: bool = False) -> int:
    """Answer each text of a file or of standard input, in its order.

    Plain lines fill the only column of the prompt's template and are answered by lines of text;
    lines of JSON give all columns and are answered by the same object with `prediction`, `scores`
    and `probabilities` put in (in place of what it may have held by these names).
    """
    check_types('predict', predict_command, locals())
    require(model, 'model', '--model=SOURCE')
    require(prompt, 'prompt file', '--prompt=FILE')
    loaded = open_prompt('predict', prompt, model, allow_other_model)
    if format is None:
        format = 'jsonl' if inputs.lower().endswith('.jsonl') else 'lines'
    task = TextTask.from_dict(loaded.metadata.task)
    config, metadata = model.model.config, loaded.metadata
    converter = FeatureConverter.for_model(task, model.vocabulary, config, metadata.layout,
                                           len(loaded.prompt_PD))
    fields = collections.deque()  # of the inputs that are not answered yet, a window at most

    def texts(lines: Iterator[str]) -> Iterator[str]:
        source = 'standard input' if inputs == '-' else inputs
        for text, record in read_inputs(lines, task, format, source):
            fields.append(record)
            yield text

    with open_lines(inputs) as lines, result_file(output) as out:
        answers = predict(texts(lines), model.vocabulary, converter,
                          _predictor(loaded, task, model), batch_size=batch_size, window=window)
        for answer in answers:
            record = fields.popleft()
            out.write(json_line({**record, **answer.to_dict()}) if format == 'jsonl'
                      else ' '.join(answer.text.splitlines()) + '\n')
    return 0


def _predictor(loaded: PromptFile, task: TextTask, model: FrozenModel) -> Predictor:
    """Rank where the task has labels, generate where it has none."""
    if task.label_words is None:
        generate = make_generator(model.model, task.targets_length)
        return by_generation(generate, model.frozen, loaded.prompt_PD, model.vocabulary.decode,
                             model.model.config)
    labels = encode_batch(model.vocabulary, task.label_words)
    score = make_label_scorer(model.model, labels)
    return by_rank(score, model.frozen, loaded.prompt_PD, task.label_words)
