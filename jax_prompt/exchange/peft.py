"""Prompts from and for Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

What PEFT (read at release 0.21) does with a prompt on T5 is just ours with the rows before the
text: it puts the first `num_virtual_tokens` rows of `prompt_embeddings` in front of the encoder's
input, under an attention mask of ones. P-tuning saves the rows that its network computed, so it is
imported alike. Multitask prompt tuning is imported a task at a time, whose rows are the shared ones
times a product of low rank of its own; rows for a decoder are left out, as PEFT's `generate` leaves
them out. Its other methods are no prompts of rows before the encoder input, and refused.
"""

import json
import os
from pathlib import Path
from typing import Any

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
TASK_COLS, TASK_ROWS = 'prefix_task_cols', 'prefix_task_rows'

_MULTITASK = 'MULTITASK_PROMPT_TUNING'
_METHODS = {'PROMPT_TUNING': 'prompt tuning', 'P_TUNING': 'P-tuning',
            _MULTITASK: 'multitask prompt tuning'}
_KEYS_AND_VALUES = ("on T5 it trains keys and values of the decoder's self-attention, tied between "
                    'layers, and no rows before the input')
_REFUSED = {
    'PREFIX_TUNING': _KEYS_AND_VALUES,
    'CARTRIDGE': _KEYS_AND_VALUES,
    'CPT': 'context-aware prompt tuning is for decoder-only models',
    'ADAPTION_PROMPT': 'it trains prompts inside the attention of decoder-only models',
}


def is_peft(path: str | os.PathLike) -> bool:
    """Tell whether a folder holds an adapter of PEFT's."""
    return any((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS, PICKLED))


def read_peft_prompt(folder: str | os.PathLike, task: str | None = None) -> tuple[np.ndarray, str]:
    """Read a prompt that PEFT trained on a T5.

    Args:
        folder: what `save_pretrained` of a PeftModel wrote.
        task: of multitask prompt tuning of several tasks, the number of the one that is meant
            (PEFT's task id).

    Returns:
        The rows that act, float32[P, D] as they were stored to the last bit (of a task of several,
        as they are multiplied), and in words where they come from.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: damaged, or another method or kind of model; says which and why.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG, 'give a folder that PEFT saved an adapter in')
    kind, numbers = _check_config(config, folder / CONFIG)
    rows, width = numbers['num_virtual_tokens'], numbers['token_dim']
    total = rows * numbers['num_transformer_submodules']
    shapes, method = {TENSOR: [total, width]}, _METHODS[kind]
    if kind == _MULTITASK:
        tasks, ranks = numbers['num_tasks'], numbers['num_ranks']
        shapes |= {TASK_COLS: [tasks, total, ranks], TASK_ROWS: [tasks, ranks, width]}
        chosen = _choose_task(task, tasks, folder)
        method += f', task {chosen}'
    elif task is not None:
        raise ValueError(f'parameter={task!r} chooses a task of several, but {folder} holds one '
                         'prompt; leave it out')
    stored, path = _read_tensors(folder, shapes)
    # Of an encoder-decoder's rows for both stacks, PEFT uses those for the encoder alone.
    prompt_PD = as_prompt(stored[TENSOR][:rows], f'{path}')
    if kind == _MULTITASK:
        # peft/tuners/multitask_prompt_tuning/model.py, forward
        factors = (as_prompt(stored[name][chosen], f'{path}') for name in (TASK_COLS, TASK_ROWS))
        cols_PR, rows_RD = factors
        prompt_PD = as_prompt(prompt_PD * (cols_PR[:rows] @ rows_RD), f'{path}')
    base_model = config.get('base_model_name_or_path')
    if isinstance(base_model, str) and base_model.isprintable() and 0 < len(base_model) <= 200:
        method += f' (trained for {base_model})'
    return prompt_PD, f'imported from PEFT {method}'


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


def _choose_task(task: str | None, tasks: int, folder: Path) -> int:
    """Return the number of the task that is meant."""
    if task is None and tasks == 1:
        return 0
    if task is None or not task.isdecimal() or int(task) >= tasks:
        raise ValueError(f'{folder} has the prompts of {tasks} tasks, and {task or "none"} is '
                         f'chosen; give the number of one, 0 to {tasks - 1}, as --parameter=N')
    return int(task)


def _check_config(config: dict[str, Any], path: Path) -> tuple[str, dict[str, int]]:
    """Return the kind and the numbers of a configuration that can be imported."""
    kind = config.get('peft_type')
    if not isinstance(kind, str) or kind not in _METHODS:
        reason = 'it names no method'
        if isinstance(kind, str):
            reason = _REFUSED.get(kind, 'it changes the model itself, or is not known here')
        raise ValueError(f'{path} is of peft_type {kind!r:.80}, which cannot be imported: '
                         f'{reason}; expected one of {", ".join(_METHODS)}')
    task_type = config.get('task_type')
    if task_type != 'SEQ_2_SEQ_LM':
        raise ValueError(f"{path} has task_type {task_type!r:.80}; expected 'SEQ_2_SEQ_LM': a "
                         'prompt for another kind of model or head means nothing to T5')
    names = ['num_virtual_tokens', 'token_dim', 'num_transformer_submodules']
    names += ['num_tasks', 'num_ranks'] if kind == _MULTITASK else []
    numbers = {name: config.get(name) for name in names}
    if numbers['num_transformer_submodules'] is None:
        numbers['num_transformer_submodules'] = 2  # what PEFT takes for SEQ_2_SEQ_LM
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(f'{path} has {name} {value!r:.80}; expected a whole number, '
                             '1 or more')
    return kind, numbers


def _read_tensors(folder: Path,
                  shapes: dict[str, list[int]]) -> tuple[dict[str, np.ndarray], Path]:
    """Read an adapter's weights, which are to be these; return them and the file they are in."""
    path, opener = folder / WEIGHTS, open_safetensors
    if not path.is_file():
        path, opener = folder / PICKLED, open_torch  # the form of PEFT before release 0.5
    if not path.is_file():
        raise FileNotFoundError(f'{folder / WEIGHTS} does not exist; copy the adapter with all its '
                                'files')
    with RawFile(path) as file:
        tensors = opener(file)
        if set(tensors) != set(shapes):
            raise ValueError(f'{path} has the tensors {sorted(tensors)!r:.80}; expected '
                             f'{", ".join(shapes)} alone: what else was trained would be lost')
        for name, shape in shapes.items():
            if list(tensors[name].shape) != shape:
                raise ValueError(f'{path} has {name} of shape {list(tensors[name].shape)} but '
                                 f'{CONFIG} says {shape}; the files are damaged or belong to two '
                                 'adapters')
        return {name: tensors[name].read(0, tensors[name].shape[0]) for name in shapes}, path
