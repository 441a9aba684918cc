"""What `jax-prompt monitor` can be told."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MonitorSettings:
    """How sure an alarm is to be, and what it is about.

    Attributes:
      margin: a figure may fall by so much; 0.02 are two points of accuracy.
      alpha: the chance of an alarm about figures of which none has fallen by more than the margin,
        of all prompts of a call together; and of one about drift where there is none.
      metric: the figure that is tested; None for the first one of the prompt's metrics.
      metrics: what answers are judged by, names as tasks choose them; None for what the prompt's
        file has figures of.
      sample: inputs that are compared to tell drift, at most; more find smaller differences.
      seed: of drawing them, and of permutations.
      batch_size: most rows of a batch.
      picture: what the history is drawn as, 'png' or 'svg'.

    Raises:
      ValueError: for what no test can be made of.
    """

    margin: float = 0.02
    alpha: float = 0.01
    metric: str | None = None
    metrics: tuple[str, ...] | None = None
    sample: int = 500
    seed: int = 0
    batch_size: int = 32
    picture: str = 'png'

    def __post_init__(self):
        if not 0 <= self.margin < 1:
            raise ValueError(f'margin={self.margin} of the monitor; expected 0 or more and less '
                             'than 1: 0.02 are two points of accuracy')
        if not 0.001 <= self.alpha < 0.5:
            raise ValueError(f'alpha={self.alpha} of the monitor; expected a chance of false '
                             'alarms from 0.001, which a thousand permutations can tell, to 0.5')
        if not 20 <= self.sample <= 2000:
            raise ValueError(f'sample={self.sample} of the monitor; expected 20 to 2,000 inputs: '
                             'they are compared each with each')
        if self.picture not in ('png', 'svg'):
            raise ValueError(f'picture={self.picture!r} of the monitor; expected png or svg')
