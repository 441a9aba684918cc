"""Answer rows of many tasks on meshes, and print the answers.

Run by test_engine_on_meshes.py with a model's folder and meshes of all devices.
"""

import json
import sys

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.models.open import MeshSettings, open_model
from tests.inference.many_prompts import prompts, requests

WAYS = {
    'rank': {},
    'greedy': dict(rank=False, max_tokens=6),
    'sample': dict(rank=False, max_tokens=6, options=SamplingSettings(1.0, 5, 0.9, seed=3)),
    'beam': dict(rank=False, max_tokens=6, decoding='beam'),
}
#: One row alone, a batch that no mesh divides, and one that on one device runs in two parts.
COUNTS = (1, 7, 16)
SHAPES = Shapes(batch_sizes=(1, 7, 16), lengths=(48,), labels=((8, 4),), targets=(8,),
                shared_labels=1)


def answers(folder: str, mesh: str) -> dict[str, list]:
    """Return, by way and count, the texts or the scores of the rows."""
    engine = Engine(open_model(folder, mesh=MeshSettings(mesh)), SHAPES,
                    decodings={'beam': beam_search(2)})
    for name, file in prompts(engine.opened).items():
        engine.add(name, file)
    found = {}
    for way, options in WAYS.items():
        asked = [(name, text) for name, text in requests(64)
                 if way != 'rank' or engine.prompt(name).labels is not None]
        for count in COUNTS:
            rows = [engine.row(*one, **options) for one in asked[:count]]
            found[f'{way} {count}'] = [
                list(answer.scores.values()) if way == 'rank' else answer.text
                for answer in engine.run(rows)]
    return found


if __name__ == '__main__':
    print(json.dumps({mesh: answers(sys.argv[1], mesh) for mesh in sys.argv[2:]}))
