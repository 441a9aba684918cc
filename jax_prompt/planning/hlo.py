"""A reader of optimized HLO, as far as counting needs one: instructions, and how often they run.

HLO text has no promise of stability. What this reader does not understand is therefore an error, or
None for "not known", and never a guess: wrong bytes would look like right ones.
"""

import dataclasses
import functools
import math
import re

_DEFINITION = re.compile(r'^\s*(?P<root>ROOT\s+)?%?(?P<name>[\w.-]+) = (?P<rest>.*)$')
_COMPUTATION = re.compile(r'^\s*(?P<entry>ENTRY\s+)?%?(?P<name>[\w.-]+)\s*\(.*\)\s*->.*\{\s*$')
# The first word that an opening parenthesis follows. In types parentheses follow nothing but
# spaces, brackets and, in TPU layouts such as T(8,128), capital letters.
_OPCODE = re.compile(r'(?:^|\s)(?P<opcode>[a-z][a-z0-9-]*)\(')
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition|true_computation|false_computation|'
                     r'branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)')
_TRIP_COUNT = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"n"\s*:\s*"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: `name = type opcode(arguments)attributes`.

    Attributes:
      name, type, opcode: as they are written, the name without its %.
      arguments: what stands in the parentheses.
      attributes: all that follows.
      root: whether its value is what its computation returns.
    """

    name: str
    type: str
    opcode: str
    arguments: str
    attributes: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions that this one takes."""
        return re.findall(r'%([\w.-]+)', self.arguments)

    def computation(self, role: str) -> str:
        """Return the computation that is called as `body` or `condition`, or ''."""
        found = re.search(rf'\b{role}=%?([\w.-]+)', self.attributes)
        return found[1] if found else ''


#: The instructions of one computation by name.
Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program: its computations by name, and the name of the one that is run."""

    computations: dict[str, Computation]
    entry: str


def read_module(text: str) -> Module:
    """Split the text of a module into instructions.

    Args:
      text: what `as_text()` of a compiled program gives.

    Returns:
      The module.

    Raises:
      ValueError: it is no HLO module.
    """
    computations: dict[str, Computation] = {}
    entry, current = '', None
    for line in text.splitlines():
        header = None if ' = ' in line.split('(')[0] else _COMPUTATION.match(line)
        if header:
            current = computations.setdefault(header['name'], {})
            entry = header['name'] if header['entry'] else entry
        elif current is not None and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError('the text is no HLO module: it has no ENTRY computation')
    return Module(computations, entry)


def executions(module: Module, otherwise: int | None = None) -> dict[str, int | None]:
    """Count how often each computation runs in one run of the program.

    All branches of a conditional count.

    Args:
      module: from `read_module`.
      otherwise: the rounds of a loop whose length cannot be read, where the caller knows it (the
        loop of generation runs at most as often as there are tokens to generate).

    Returns:
      Computation -> times, None where it is in a loop of unknown length.
    """
    callers: dict[str, list[tuple[str, int | None]]] = {name: [] for name in module.computations}
    for name, computation in module.computations.items():
        for instruction in computation.values():
            for callee, rounds in _calls(instruction, computation, module):
                callers.get(callee, []).append((name, otherwise if rounds is None else rounds))

    @functools.cache
    def count(name: str) -> int | None:
        total = int(name == module.entry)
        for caller, rounds in callers[name]:
            outer = count(caller)
            if outer == 0:
                continue
            if outer is None or rounds is None:
                return None
            total += outer * rounds
        return total

    return {name: count(name) for name in module.computations}


def type_bytes(type_text: str) -> int:
    """Sum the bytes of a type, all parts of a tuple; padding that a layout asks for aside.

    Args:
      type_text: 'f32[4,24]{1,0:T(8,128)}' or '(bf16[8]{0}, u4[3])'.

    Returns:
      Bytes, rounded up.

    Raises:
      ValueError: an element type is not known here.
    """
    return sum(part.bytes for part in type_parts(type_text))


@dataclasses.dataclass(frozen=True)
class Part:
    """One array of a type.

    Attributes:
      shape: its dimensions.
      bytes: its size without padding.
      main: whether it stands in a device's main memory (HBM) and not in a core's own (VMEM).
    """

    shape: tuple[int, ...]
    bytes: int
    main: bool


def type_parts(type_text: str) -> list[Part]:
    """List the arrays of a type, in the order in which they are written.

    Args:
      type_text: 'f32[4,24]{1,0:T(8,128)S(1)}' or '(bf16[8]{0}, u4[3])'.

    Returns:
      One for each array.

    Raises:
      ValueError: an element type is not known here.
    """
    return [Part(shape, -(-math.prod(shape) * _element_bits(dtype) // 8), 'S(' not in layout)
            for dtype, sizes, layout in _ARRAY.findall(type_text)
            for shape in [tuple(int(size) for size in re.findall(r'\d+', sizes))]]


def array_shape(type_text: str) -> tuple[int, ...]:
    """Return the dimensions of a type that is one array: 'f32[4,24]{1,0}' -> (4, 24)."""
    return type_parts(type_text)[0].shape


def _element_bits(dtype: str) -> int:
    """Return the width of f32, bf16, s8, u4, f8e4m3fn, c64: the first number in the name."""
    if dtype in ('token', 'opaque'):
        return 0
    if dtype == 'pred':
        return 8
    width = re.match(r'[a-z]+?(\d+)', dtype)
    if not width:
        raise ValueError(f'{dtype!r} is no element type of HLO that is known here')
    return int(width[1])


def _instruction(line: str) -> Instruction | None:
    """Read one line, or return None where it defines nothing."""
    definition = _DEFINITION.match(line)
    opcode = definition and _OPCODE.search(definition['rest'])
    if not opcode:
        return None
    rest = definition['rest']
    end = _closing(rest, opcode.end() - 1)
    return Instruction(definition['name'], rest[:opcode.start()], opcode['opcode'],
                       rest[opcode.end():end], rest[end + 1:], bool(definition['root']))


def _closing(text: str, start: int) -> int:
    """Return the place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {'(': 1, ')': -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def _calls(instruction: Instruction, computation: Computation,
           module: Module) -> list[tuple[str, int | None]]:
    """List the computations that an instruction runs, and how often each; None if unknown."""
    if instruction.opcode.endswith(('-update', '-done')):  # of what `-start` has called
        return []
    rounds: int | None = 1
    if instruction.opcode == 'while':
        known = _TRIP_COUNT.search(instruction.attributes)
        rounds = int(known[1]) if known else _counted_rounds(instruction, computation, module)
    return [(name, rounds) for names in _CALLED.findall(instruction.attributes)
            for name in re.findall(r'[\w.-]+', names)]


def _counted_rounds(loop: Instruction, computation: Computation, module: Module) -> int | None:
    """Count the rounds of `i = first; while i < last: ...; i += step`, all of them constants.

    This is what `lax.scan` becomes. The TPU compiler does not write the number of rounds down.
    """
    condition = module.computations.get(loop.computation('condition'), {})
    test = next((one for one in condition.values() if one.root), None)
    if test is None or test.opcode != 'compare' or 'direction=LT' not in test.attributes:
        return None
    place, last = (_resolve(name, condition) for name in test.operands)
    if place is None or place.opcode != 'get-tuple-element':
        return None
    index = int(re.search(r'index=(\d+)', place.attributes)[1])
    before = _tuple_part(_resolve(loop.operands[0], computation), index, computation)
    body = module.computations.get(loop.computation('body'), {})
    root = next((one for one in body.values() if one.root), None)
    numbers = [_constant(before), _constant(last),
               _step(_tuple_part(root, index, body), index, body)]
    if None in numbers or numbers[2] <= 0:
        return None
    first, end, step = numbers
    return max(0, -(-(end - first) // step))


def _step(advanced: Instruction | None, index: int, body: Computation) -> int | None:
    """Return by how much a round adds to the loop's counter, part `index` of its state."""
    if advanced is None or advanced.opcode != 'add':
        return None
    counter, step = (_resolve(name, body) for name in advanced.operands)
    is_counter = (counter is not None and counter.opcode == 'get-tuple-element'
                  and f'index={index}' in re.findall(r'index=\d+', counter.attributes))
    return _constant(step) if is_counter else None


def _resolve(name: str, computation: Computation) -> Instruction | None:
    """Return the instruction of a name, looking through copies."""
    found = computation.get(name)
    while found is not None and found.opcode in ('copy', 'bitcast'):
        found = computation.get(found.operands[0])
    return found


def _tuple_part(whole: Instruction | None, index: int,
                computation: Computation) -> Instruction | None:
    """Return the instruction that gives one part of a tuple."""
    if whole is None or whole.opcode != 'tuple' or index >= len(whole.operands):
        return None
    return _resolve(whole.operands[index], computation)


def _constant(instruction: Instruction | None) -> int | None:
    """Return the value of a whole constant, or None."""
    if instruction is None or instruction.opcode != 'constant':
        return None
    return int(instruction.arguments) if re.fullmatch(r'-?\d+', instruction.arguments) else None
