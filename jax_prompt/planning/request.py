"""What is to be planned."""

import dataclasses

from jax_prompt.models.t5.stack import REMAT_POLICIES

WEIGHTS = ('bfloat16', 'int8')


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """Describe one program: a model, a slice of TPUs, and what runs on it.

    Attributes:
      model: a name such as 't5-1.1-xxl', or a folder with a `config.json`; see
        `planning.sizes.find_config`.
      topology: generation and shape, 'v5e:4x4'; the shape counts chips.
      mesh: sizes of the axes, 'data:2,model:8'; one may be -1, for what the other leaves.
      batch_size: rows of the global batch.
      inputs_length: most tokens of an input, end token included, virtual tokens not.
      targets_length: most tokens of a target (or to generate), end token included.
      prompt_length: P, rows of the prompt.
      prefix_length: M, positions of a prefix of keys and values in every layer; 0 for none.
      weights: how the frozen weights are stored, 'bfloat16' or 'int8'.
      remat: 'none', 'dots' or 'full'; None for the first of them that fits.
      microbatches: into how many parts the batch goes through the model, one after the other.
      shard_weights_over_data: spread the frozen weights over the data axis too.
      generate: plan generation instead of training.
    """

    model: str = ''
    topology: str = ''
    mesh: str = 'data:1,model:-1'
    batch_size: int = 32
    inputs_length: int = 512
    targets_length: int = 16
    prompt_length: int = 100
    prefix_length: int = 0
    weights: str = 'bfloat16'
    remat: str | None = None
    microbatches: int = 1
    shard_weights_over_data: bool = False
    generate: bool = False

    def __post_init__(self):
        for field, example in (('model', 't5-1.1-xxl'), ('topology', 'v5e:4x4')):
            if not getattr(self, field):
                raise ValueError(f'no {field} to plan for; name one, such as {field}={example}')
        for field in ('batch_size', 'inputs_length', 'targets_length', 'microbatches'):
            _check_number(field, getattr(self, field), 1)
        _check_number('prefix_length', self.prefix_length, 0)
        # Without a prompt there is nothing to train, but much to generate.
        _check_number('prompt_length', self.prompt_length,
                      0 if self.generate or self.prefix_length else 1)
        if self.weights not in WEIGHTS:
            raise ValueError(f'weights={self.weights!r}; choose one of {", ".join(WEIGHTS)}')
        if self.remat is not None and self.remat not in REMAT_POLICIES:
            raise ValueError(f'remat={self.remat!r} is no rematerialisation policy; '
                             f'choose one of {", ".join(REMAT_POLICIES)}')
        if self.batch_size % self.microbatches:
            raise ValueError(f'batch_size={self.batch_size} does not divide into '
                             f'microbatches={self.microbatches}; choose a multiple')
        if self.generate and self.microbatches > 1:
            raise ValueError(f'microbatches={self.microbatches} are of training; generation takes '
                             'the whole batch at once: give a smaller batch_size')

    @property
    def positions(self) -> int:
        """Return S, encoder positions, virtual tokens included."""
        return self.inputs_length + self.prompt_length

    @property
    def rows_at_once(self) -> int:
        """Return how many rows of the batch are in the model at a time."""
        return self.batch_size // self.microbatches


def _check_number(field: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'{field}={value!r}; expected a whole number of at least {least}')
