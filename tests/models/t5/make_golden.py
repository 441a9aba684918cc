"""Write what transformers' PyTorch T5 answers for each tiny model: golden/SHAPE.npz.

    python -m tests.models.t5.make_golden        (needs torch and transformers)
"""

import pathlib

import numpy as np
import torch
import transformers

from tests.models.t5 import reference

FOLDER = pathlib.Path(__file__).parent / 'golden'


def main():
    for shape in reference.SHAPES:
        answers = reference.torch_answers(reference.make_config(shape))
        np.savez(FOLDER / f'{shape}.npz', **answers)
        print(f'{shape}: loss {answers["loss"]:.5f} '
              f'(torch {torch.__version__}, transformers {transformers.__version__})')


if __name__ == '__main__':
    main()
