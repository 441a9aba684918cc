"""What is asked for is checked before anything is compiled."""

import pytest

from jax_prompt.planning.request import PlanRequest


def request(**changes) -> PlanRequest:
    return PlanRequest(**{'model': 't5-1.1-small', 'topology': 'v5e:2x2'} | changes)


@pytest.mark.parametrize('changes, message', [
    ({'batch_size': 0}, 'batch_size=0; expected a whole number of at least 1'),
    ({'inputs_length': 1.5}, r'inputs_length=1.5; expected a whole number'),
    ({'targets_length': True}, 'targets_length=True; expected a whole number'),
    ({'prompt_length': 0}, 'prompt_length=0; expected a whole number of at least 1'),
    ({'prompt_length': -1, 'generate': True}, 'prompt_length=-1; expected a whole number of at le'),
    ({'weights': 'float16'}, "weights='float16'; choose one of bfloat16, int8"),
    ({'remat': 'some'}, "remat='some' is no rematerialisation policy; choose one of none, dots"),
    ({'microbatches': 5}, 'batch_size=32 does not divide into microbatches=5; choose a multiple'),
    ({'microbatches': 2, 'generate': True}, 'microbatches=2 are of training; generation takes'),
])
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        request(**changes)


def test_positions_are_inputs_and_prompt_rows():
    assert request(inputs_length=512, prompt_length=100).positions == 612
    assert request(batch_size=32, microbatches=4).rows_at_once == 8
