"""Prompts from and for Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

What PEFT (read at release 0.21) does with a prompt on T5 is just ours with the rows before the
text: it puts the first `num_virtual_tokens` rows of `prompt_embeddings` in front of the encoder's
input, under an attention mask of ones. P-tuning saves the rows that its network computed, so it is
imported alike. Its other methods are no prompts of rows before the encoder input, and refused.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from jax_prompt.exchange.peft_card import model_card
from jax_prompt.exchange.prompt_rows import as_prompt
from jax_prompt.files import write_folder
from jax_prompt.prompts.file import PromptFile
from jax_prompt.weights.huggingface import read_json
from jax_prompt.weights.safetensors_file import open_safetensors
from jax_prompt.weights.tensors import RawFile
from jax_prompt.weights.torch_files import open_torch

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
PICKLED = 'adapter_model.bin'
CARD = 'README.md'
TENSOR = 'prompt_embeddings'

_METHODS = {'PROMPT_TUNING': 'prompt tuning', 'P_TUNING': 'P-tuning'}
_REFUSED = {
    'PREFIX_TUNING': "PEFT's prefix tuning on T5 trains keys and values of the decoder's "
                     'self-attention, tied between layers, and no rows before the input',
    'MULTITASK_PROMPT_TUNING': 'its rows are a shared prompt that each task multiplies by a matrix '
                               'of its own, and PEFT puts rows in front of the decoder too',
    'CPT': 'context-aware prompt tuning is for decoder-only models',
    'ADAPTION_PROMPT': 'it trains prompts inside the attention of decoder-only models',
}
_NUMBERS = ('num_virtual_tokens', 'token_dim', 'num_transformer_submodules')


class PeftPrompt(NamedTuple):
    """A prompt of PEFT's.

    Attributes:
        prompt_PD: float32[P, D].
        method: 'prompt tuning' or 'P-tuning'.
        base_model: what PEFT calls the model that it was trained for; None where it says nothing.
    """

    prompt_PD: np.ndarray
    method: str
    base_model: str | None


def is_peft(path: str | os.PathLike) -> bool:
    """Tell whether a folder holds an adapter of PEFT's."""
    return any((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS, PICKLED))


def read_peft_prompt(folder: str | os.PathLike) -> PeftPrompt:
    """Read a prompt that PEFT trained on a T5.

    Args:
        folder: what `save_pretrained` of a PeftModel wrote.

    Returns:
        The rows that act, float32 as they were stored to the last bit, and where they come from.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: damaged, or another method or kind of model; says which and why.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG, 'give a folder that PEFT saved an adapter in')
    method, rows, submodules = _check_config(config, folder / CONFIG)
    stored_PD, path = _read_embeddings(folder)
    width = config['token_dim']
    if list(stored_PD.shape) != [rows * submodules, width]:
        raise ValueError(
            f'{path} has {TENSOR} of shape {list(stored_PD.shape)} but {CONFIG} says '
            f'{rows} virtual tokens x {submodules} submodules, width {width}; '
            'the files are damaged or belong to two adapters')
    # Of an encoder-decoder's rows for both stacks, PEFT uses those for the encoder alone.
    prompt_PD = as_prompt(stored_PD[:rows], f'{path}')
    base_model = config.get('base_model_name_or_path')
    return PeftPrompt(prompt_PD, method, base_model if isinstance(base_model, str) else None)


def write_peft_prompt(folder: str | os.PathLike, prompt_file: PromptFile, base_model: str,
                      overwrite: bool = False) -> Path:
    """Write a prompt as an adapter that PEFT loads, with a model card.

    Args:
        folder: where to; it appears whole.
        prompt_file: the prompt.
        base_model: what PEFT shall load the model by: a hub repository or a folder.
        overwrite: replace an adapter that is there.

    Returns:
        The folder.

    Raises:
        ValueError: PEFT cannot express the layout, or the prompt has no rows.
        FileExistsError: the folder is there and may not be changed.
    """
    layout = prompt_file.metadata.layout
    what = 'the prompt' if prompt_file.path is None else f'prompt file {prompt_file.path}'
    rows, width = prompt_file.prompt.rows.shape
    if layout.placement != 'before':
        raise ValueError(f'{what} stands {layout.placement!r} ({layout.describe(rows)}), but PEFT '
                         "puts prompts before the text alone: train one with placement 'before' to "
                         'export it, or export the bare rows as numpy')
    if not rows:
        raise ValueError(f'{what} has no rows; PEFT has no adapter without virtual tokens')
    prompt_PD = np.ascontiguousarray(prompt_file.prompt.rows)
    files = {
        WEIGHTS: safetensors.numpy.save({TENSOR: prompt_PD}, {'format': 'pt'}),
        CARD: model_card(prompt_file, base_model).encode(),
        CONFIG: (json.dumps(_adapter_config(rows, width, base_model), indent=2, sort_keys=True)
                 + '\n').encode(),
    }
    return write_folder(folder, files, key=CONFIG, overwrite=overwrite)


def _adapter_config(rows: int, width: int, base_model: str) -> dict[str, Any]:
    """Return PEFT's configuration; what is None there, PEFT takes from the model.

    One submodule, since rows for a decoder would never act.
    """
    return {
        'peft_type': 'PROMPT_TUNING', 'task_type': 'SEQ_2_SEQ_LM', 'inference_mode': True,
        'base_model_name_or_path': base_model, 'revision': None, 'auto_mapping': None,
        'num_virtual_tokens': rows, 'token_dim': width, 'num_transformer_submodules': 1,
        'num_layers': None, 'num_attention_heads': None,
        'prompt_tuning_init': 'RANDOM', 'prompt_tuning_init_text': None,
        'tokenizer_name_or_path': None,
    }


def _check_config(config: dict[str, Any], path: Path) -> tuple[str, int, int]:
    """Return method, rows and submodules of a configuration that can be imported."""
    kind = config.get('peft_type')
    if not isinstance(kind, str) or kind not in _METHODS:
        reason = 'it names no method'
        if isinstance(kind, str):
            reason = _REFUSED.get(kind, 'it changes the model itself')
        raise ValueError(f'{path} is of peft_type {kind!r:.80}, which cannot be imported: '
                         f'{reason}; expected one of {", ".join(_METHODS)}')
    task_type = config.get('task_type')
    if task_type != 'SEQ_2_SEQ_LM':
        raise ValueError(f"{path} has task_type {task_type!r:.80}; expected 'SEQ_2_SEQ_LM': a "
                         'prompt for another kind of model or head means nothing to T5')
    numbers = {name: config.get(name) for name in _NUMBERS}
    if numbers['num_transformer_submodules'] is None:
        numbers['num_transformer_submodules'] = 2  # what PEFT takes for SEQ_2_SEQ_LM
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(f'{path} has {name} {value!r:.80}; expected a whole number, '
                             '1 or more')
    return _METHODS[kind], numbers['num_virtual_tokens'], numbers['num_transformer_submodules']


def _read_embeddings(folder: Path) -> tuple[np.ndarray, Path]:
    """Read the one tensor of an adapter's weights; return it and the file that holds it."""
    path, opener = folder / WEIGHTS, open_safetensors
    if not path.is_file():
        path, opener = folder / PICKLED, open_torch  # the form of PEFT before release 0.5
    if not path.is_file():
        raise FileNotFoundError(f'{folder / WEIGHTS} does not exist; copy the adapter with all its '
                                'files')
    with RawFile(path) as file:
        tensors = opener(file)
        if set(tensors) != {TENSOR}:
            raise ValueError(f'{path} has the tensors {sorted(tensors)!r:.80}; expected {TENSOR} '
                             'alone: what else was trained would be lost')
        stored = tensors[TENSOR]
        if len(stored.shape) != 2:
            raise ValueError(f'{path} has {TENSOR} of shape {list(stored.shape)}; '
                             'expected [rows, width]')
        return stored.read(0, stored.shape[0]), path
