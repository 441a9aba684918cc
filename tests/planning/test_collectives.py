"""Reading collectives out of HLO, in each form that XLA writes them."""

import types

import pytest

from jax_prompt.planning.collectives import Collective, read_collectives, read_groups
from jax_prompt.planning.hlo import read_module, read_type
from tests.parallel.traffic import axis_bytes, traffic

# A mesh is asked for nothing but its sizes.
MESH = types.SimpleNamespace(shape={'data': 4, 'model': 2}, size=8)

OVER_DATA, OVER_MODEL = 'replica_groups={{0,2,4,6},{1,3,5,7}}', 'replica_groups=[4,2]<=[8]'


def module(*lines: str, before: str = '') -> str:
    body = '\n'.join(f'  {line}' for line in lines)
    return (f'HloModule jit_step, is_scheduled=true\n\n{before}\n'
            '%add (x: f32[], y: f32[]) -> f32[] {\n  %x = f32[] parameter(0)\n'
            '  %y = f32[] parameter(1)\n  ROOT %sum = f32[] add(%x, %y)\n}\n\n'
            'ENTRY %main (p: f32[5,16]) -> f32[5,16] {\n'
            f'  %p = f32[5,16]{{1,0}} parameter(0)\n{body}\n}}\n')


@pytest.mark.parametrize('text, groups', [
    ('replica_groups={{0,1},{2,3}}, to_apply=%add', [[0, 1], [2, 3]]),
    ('replica_groups={}, to_apply=%add', [[0, 1, 2, 3]]),
    ('replica_groups=[2,2]<=[4]', [[0, 1], [2, 3]]),
    ('replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}', [[0, 2], [1, 3]]),
    ('replica_groups=[2,4]<=[2,2,2]T(2,0,1)', [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}", [[0, 1, 2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
    ('channel_id=1, source_target_pairs={{0,1},{2,2}}', [[0, 1], [2]]),
])
def test_groups(text, groups):
    found = read_groups(f', channel_id=1, {text}', 4)
    assert sorted(map(sorted, found)) == groups


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match=r"not known here: '<the new form>"):
        read_groups(', replica_groups=<the new form>', 4)


@pytest.mark.parametrize('text, number', [
    ('f32[5,16]{1,0}', 320), ('bf16[3]', 6), ('pred[7]', 7), ('f32[]', 4), ('s4[3]', 2),
    ('(f32[2]{0}, u8[3])', 11), ('f8e4m3fn[4]', 4), ('c64[2]', 16), ('f32[0,4]', 0),
    ('f32[4,24,256]{2,1,0:T(8,128)(2,1)S(1)}', 4 * 24 * 256 * 4),
    ('(f32[2], /*index=5*/f32[3])', 20), ('token[]', 0),
])
def test_bytes_of_types(text, number):
    assert sum(array.bytes for array in read_type(text)) == number


def test_an_unknown_element_type_is_refused():
    with pytest.raises(ValueError, match="'float' is no element type"):
        read_type('float[3]')


def test_operations_and_axes():
    text = module(
        f'%sum = (f32[5,16]{{1,0}}, f32[]) all-reduce(%p, %c), {OVER_DATA}, to_apply=%add',
        '%c = f32[] constant(1)',
        f'%all = f32[10,16]{{1,0}} all-gather(%p), {OVER_MODEL}, dimensions={{0}}',
        f'%part = f32[5,4]{{1,0}} reduce-scatter(%p), {OVER_DATA}, to_apply=%add',
        '%next = f32[5,16]{1,0} collective-permute(%p), source_target_pairs={{0,3},{3,0}}',
        '%alone = f32[5,16]{1,0} all-reduce(%p), replica_groups=[8,1]<=[8], to_apply=%add',
        '%every = f32[5,16]{1,0} all-to-all(%p), replica_groups={}')
    totals = traffic(text, MESH)
    assert totals == {'data': {'all-reduce': 324, 'reduce-scatter': 320},
                      'model': {'all-gather': 640},
                      'data+model': {'collective-permute': 320, 'all-to-all': 320}}
    assert axis_bytes(totals, 'data') == 324 + 320 + 640
    assert axis_bytes(totals, 'model') == 640 + 640


def test_an_asynchronous_collective_counts_once():
    text = module(
        f'%start = (f32[5,16], f32[10,16]) all-gather-start(%p), {OVER_MODEL}, dimensions={{0}}',
        '%done = f32[10,16] all-gather-done(%start)',
        '%begun = ((f32[5,16]), f32[5,16], u32[]) async-start(%p), calls=%wrapped',
        '%middle = ((f32[5,16]), f32[5,16], u32[]) async-update(%begun), calls=%wrapped',
        '%ended = f32[5,16] async-done(%middle), calls=%wrapped',
        before='%wrapped (q: f32[5,16]) -> f32[5,16] {\n  %q = f32[5,16] parameter(0)\n'
               f'  ROOT %r = f32[5,16] all-reduce(%q), {OVER_DATA}, to_apply=%add\n}}\n')
    assert traffic(text, MESH) == {'model': {'all-gather': 640},
                                            'data': {'all-reduce': 320}}


def test_a_collective_that_is_spread_over_fusions_counts_once():
    """The TPU compiler copies the instruction into every fusion that runs meanwhile."""
    copy = (f'all-gather(%q), channel_id=7, {OVER_MODEL}, dimensions={{0}}, '
            'frontend_attributes={chain_id="0"}')
    parts = [('%begin', 'custom-call(%g), custom_call_target="AsyncCollectiveStart"'),
             ('%middle', 'copy(%g)'),
             ('%end', 'custom-call(%g), custom_call_target="AsyncCollectiveDone"')]
    before = '\n'.join(f'{name} (q: f32[5,16]) -> f32[10,16] {{\n  %q = f32[5,16] parameter(0)\n'
                       f'  %g = f32[10,16] {copy}\n  ROOT %r = f32[10,16] {last}\n}}\n'
                       for name, last in parts)
    text = module(*(f'%f{name[1:]} = f32[10,16] fusion(%p), kind=kCustom, calls={name}'
                    for name, _ in parts), before=before)
    assert traffic(text, MESH) == {'model': {'all-gather': 640}}


LOOP = """
%body (s: (s32[], f32[5,16])) -> (s32[], f32[5,16]) {
  %s = (s32[]{:T(128)}, f32[5,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %v = f32[5,16]{1,0} get-tuple-element(%s), index=1
  %r = f32[5,16]{1,0} all-reduce(%v), replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[5,16]) tuple(%next, %r)
}

%condition (s: (s32[], f32[5,16])) -> pred[] {
  %s = (s32[], f32[5,16]) parameter(0)
  %last = s32[] constant(6)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %more = pred[] compare(%i, %last), direction=LT
}
"""

START = ('%zero = s32[] constant(0)', '%copied = s32[] copy(%zero)',
         '%begin = (s32[], f32[5,16]) tuple(%copied, %p)')
WHILE = '%loop = (s32[], f32[5,16]) while(%begin), condition=%condition, body=%body'


def looped(loop=WHILE, body=LOOP) -> str:
    return module(*START, loop, before=body)


def test_a_counted_loop_multiplies():
    assert [one.times for one in read_collectives(read_module(looped()), MESH)] == [6]
    assert traffic(looped(), MESH) == {'model': {'all-reduce': 320 * 6}}


def test_a_collective_that_is_carried_on_in_a_loop_counts_as_often_as_it_begins():
    body = LOOP.replace('all-reduce(%v)', 'all-reduce(%v), channel_id=7')
    lines = [*START, WHILE, f'%r = f32[5,16] all-reduce(%p), channel_id=7, {OVER_MODEL}']
    for text in (module(*lines, before=body), module(*lines) + body):
        assert traffic(text, MESH) == {'model': {'all-reduce': 320}}


def test_the_number_of_rounds_that_xla_writes_is_taken():
    loop = WHILE + ', backend_config={"known_trip_count":{"n":"24"},"other":{}}'
    assert traffic(looped(loop=loop), MESH) == {'model': {'all-reduce': 320 * 24}}


def test_loops_in_loops_multiply():
    outer = LOOP.replace('%body', '%outer').replace('%condition', '%until').replace(
        'all-reduce(%v), replica_groups=[4,2]<=[8], to_apply=%add',
        'custom-call(%v), called_computations={%middle}')
    middle = ('%middle (p: f32[5,16]) -> f32[5,16] {\n  %p = f32[5,16] parameter(0)\n  '
              + '\n  '.join((*START, WHILE)) + '\n}\n')
    loop = WHILE.replace('%condition', '%until').replace('%body', '%outer')
    # The order of computations in the text means nothing.
    text = looped(loop=loop, body=outer + LOOP + middle)
    assert traffic(text, MESH) == {'model': {'all-reduce': 320 * 36}}


@pytest.mark.parametrize('change', [
    ('direction=LT', 'direction=NE'),
    ('%last = s32[] constant(6)', '%last = s32[] get-tuple-element(%s), index=0'),
], ids=str)
def test_a_loop_of_unknown_length_is_refused(change):
    with pytest.raises(ValueError, match='is in a loop whose number of rounds cannot be known'):
        traffic(looped(body=LOOP.replace(*change)), MESH)


@pytest.mark.parametrize('operation, sent', [
    ('all-reduce', 2 * 75), ('all-gather', 75), ('reduce-scatter', 75), ('all-to-all', 75),
    ('collective-permute', 100)])
def test_what_a_device_has_to_send_at_least(operation, sent):
    assert Collective(operation, ('data',), 100, group_size=4, times=3).sent_bytes == 3 * sent


def test_other_text_is_refused():
    with pytest.raises(ValueError, match='no HLO module'):
        traffic('module @jit_step {\n}', MESH)
