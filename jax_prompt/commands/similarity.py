"""`jax-prompt similarity`."""

import itertools
import json

from jax_prompt.commands.shared import require
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.similarity import MEANS, PAIRS, load_prompts, ranked, similarity


def similarity_command(prompts: str | None = None, prompt: str | None = None, by: str = PAIRS,
                       json_only: bool = False) -> int:
    """Rank the prompts of a folder by how alike they are to one, or compare all with each other.

    The likest is a good source to start the one's task from: `prompt.initializer = @from_array()`,
    `from_array.source = FILE`. Needs no model.
    """
    require(prompts, 'folder of prompts', '--prompts=FOLDER')
    sources = load_prompts(prompts)
    if prompt is not None:
        found = ranked(load_prompt(prompt).prompt.virtual, sources, by)
        rows = [(name, told) for name, told in found]
    else:
        ranked(next(iter(sources.values())).prompt.virtual, sources, by)  # which checks widths
        rows = [(f'{one} {other}', similarity(sources[one].prompt.virtual,
                                              sources[other].prompt.virtual))
                for one, other in itertools.combinations(sources, 2)]
        rows.sort(key=lambda item: -item[1][by])
    if json_only:
        print(json.dumps([{'prompt': name, **told} for name, told in rows]))
        return 0
    width = max([len(name) for name, _ in rows] + [7])
    print(f'{"prompt":<{width}}  {"pairs of rows":>13}  {"mean rows":>9}')
    for name, told in rows:
        print(f'{name:<{width}}  {told[PAIRS]:>13.4f}  {told[MEANS]:>9.4f}')
    return 0
