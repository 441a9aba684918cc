"""`jax-prompt export`."""

from jax_prompt.commands.shared import require
from jax_prompt.exchange.hub import push_to_hub
from jax_prompt.exchange.prompts_in_out import export_prompt
from jax_prompt.prompts.file import load_prompt


def export_command(prompt: str | None = None, output: str | None = None, to: str = 'peft',
                   base_model: str | None = None, overwrite: bool = False,
                   push: str | None = None, private: bool = False) -> int:
    """Write a prompt for other tools, and upload it where `push` names a repository."""
    require(prompt, 'prompt file', '--prompt=FILE')
    require(output, 'output', '--output=FOLDER (or FILE.npy)')
    if push is not None and to != 'peft':
        raise ValueError(f'cannot push a prompt in the form {to!r}; the hub takes --to=peft')
    written = export_prompt(load_prompt(prompt), output, to, base_model, overwrite=overwrite)
    print(f'{written}: the prompt of {prompt} for {to}')
    if push is not None:
        print(push_to_hub(written, push, private=private))
    return 0
