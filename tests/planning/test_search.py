"""The search: cheap candidates first, few compilations; the compiler is stood in for."""

import dataclasses

import pytest

from jax_prompt.planning import search as searching
from jax_prompt.planning.chips import CHIPS
from jax_prompt.planning.estimate import estimate
from jax_prompt.planning.planner import Memory, Plan, Speed
from jax_prompt.planning.request import PlanRequest
from jax_prompt.planning.search import describe_suggestion, suggest
from jax_prompt.planning.sizes import find_config

GIB = 2**30
XXL = PlanRequest('t5-1.1-xxl', 'v5e:4x4')


def sizes(mesh: str) -> dict[str, int]:
    return {axis: int(size) for axis, size in (part.split(':') for part in mesh.split(','))}


def guess(request):
    return estimate(request, find_config(request.model), sizes(request.mesh), CHIPS['v5e'])


@pytest.fixture
def compiler(monkeypatch):
    """A compiler whose programs need twice what is guessed at least, and its list of programs."""
    calls, state = [], {'factor': 2.0}

    def plan(request):
        calls.append(request)
        needed = int(guess(request).floor_bytes * state['factor'])
        room = 16 * GIB
        memory = Memory(0, 0, 0, needed, 0, needed, room, max(0, needed - room))
        fits = needed <= room
        speed = Speed(1, 1, 0, {}, 1.0, 0.5, 0.0, 1.0, 'compute', 0.5) if fits else None
        return Plan(request, fits, 16, 16, memory, speed, 0.1)

    def devices_of(name):
        rows, columns = name.split(':')[1].split('x')
        return [None] * (int(rows) * int(columns))

    monkeypatch.setattr(searching, 'plan', plan)
    monkeypatch.setattr(searching, 'capacity_of', lambda chip: 16 * GIB)
    monkeypatch.setattr(searching, 'devices_of', devices_of)
    return calls, state


def test_the_first_that_fits_ends_the_search(compiler):
    calls, _ = compiler
    found = suggest(XXL)
    assert found.best.fits and found.best is found.tried[-1]
    assert len(calls) == len(found.tried) < 12 < found.considered
    assert not any(one.fits for one in found.tried[:-1])


def test_candidates_come_in_the_order_of_their_cost(compiler):
    calls, state = compiler
    state['factor'] = 100.0
    suggest(XXL, most_compilations=8)
    costs = [guess(one).chip_seconds_per_example for one in calls if one.batch_size == 32]
    assert costs == pytest.approx(sorted(costs), rel=0.05)


def test_what_needs_more_than_a_refused_candidate_is_not_compiled(compiler):
    calls, state = compiler
    state['factor'] = 100.0
    suggest(XXL, most_compilations=30)
    order = ['none', 'dots', 'full']
    for place, later in enumerate(calls):
        for earlier in calls[:place]:
            same = dataclasses.replace(later, remat=earlier.remat,
                                       microbatches=earlier.microbatches) == earlier
            assert not (same and order.index(later.remat) <= order.index(earlier.remat)
                        and later.microbatches <= earlier.microbatches)


def test_a_smaller_batch_is_tried_where_none_fits(compiler, monkeypatch):
    calls, state = compiler
    state['factor'] = 1.2
    monkeypatch.setattr(searching, '_MICROBATCHES', (1,))
    request = dataclasses.replace(XXL, topology='v5e:1x1', batch_size=64)
    found = suggest(request, most_compilations=500)
    assert found.best.request.batch_size < 64
    assert found.best.request.weights == 'int8'  # bfloat16 has no room on one chip
    assert not any(one.shard_weights_over_data for one in calls)  # where data has one place


def test_where_nothing_fits_it_says_so(compiler):
    _, state = compiler
    state['factor'] = 1000.0
    found = suggest(XXL, most_compilations=5)
    assert found.best is None and len(found.tried) == 5
    assert describe_suggestion(found).endswith('none fits; give more chips, shorter inputs or a '
                                               'smaller batch')


def test_a_generation_stands_for_its_slices(compiler):
    found = suggest(dataclasses.replace(XXL, topology='v5e', batch_size=8))
    assert found.best.request.topology.startswith('v5e:')
    text = describe_suggestion(found)
    assert 'the cheapest that fits:' in text and 'candidates' in text


def test_meshes_divide_devices_batch_and_heads(compiler):
    calls, state = compiler
    state['factor'] = 1000.0
    # The small one has six heads; generation alone, since that is traced sooner.
    suggest(dataclasses.replace(XXL, model='t5-1.1-small', batch_size=8, generate=True))
    assert {one.mesh for one in calls if one.batch_size == 8} == {'data:8,model:2'}
    calls.clear()
    suggest(XXL)
    for one in calls:
        mesh = sizes(one.mesh)
        assert mesh['data'] * mesh['model'] == 16 and one.batch_size % mesh['data'] == 0


def test_progress_is_told(compiler):
    told = []
    found = suggest(XXL, tell=told.append)
    assert tuple(told) == found.tried
