"""Summaries: XSum (Narayan et al. 2018) and CNN/DailyMail (See et al. 2017), in T5's text format.

The format is that of T5's published `summarize` (t5/data/preprocessors.py). Without the task's name
the article stands alone.
"""

from jax_prompt.data.tasks.definition import OPEN_TEST, TaskDefinition

_FILES = {split: (f'{name}.jsonl', f'{split}.jsonl') for split, name in
          (('train', 'train'), ('validation', 'val'), ('test', 'test'))}

SUMMARIES = (
    TaskDefinition(
        name='xsum', prefix='summarize: ', template='{document}', target='summary',
        splits=OPEN_TEST, files=_FILES, folders=('XSum', 'xsum', 'xsum/default'), tfds='xsum',
        metrics=('rouge',), targets_length=64),
    TaskDefinition(
        name='cnn_dailymail', prefix='summarize: ', template='{article}', target='highlights',
        splits=OPEN_TEST, files=_FILES, tfds='cnn_dailymail',
        folders=('CNN_DailyMail', 'cnn_dailymail', 'cnn_dailymail/3.0.0'), metrics=('rouge',),
        targets_length=128),
)
