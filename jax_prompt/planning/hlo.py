"""A reader of optimized HLO, as far as counting needs one: instructions, and how often they run.

HLO text has no promise of stability. What this reader does not understand is therefore an error,
and never a guess: wrong bytes would look like right ones.
"""

import dataclasses
import functools
import math
import re

_COMPUTATION = re.compile(r'^\s*(?P<entry>ENTRY\s+)?%?(?P<name>[\w.-]+)\s*\(.*\)\s*->.*\{\s*$')
# The opcode is the first word that an opening parenthesis follows. In types parentheses follow
# nothing but spaces, brackets and, in TPU layouts such as T(8,128), capital letters.
_INSTRUCTION = re.compile(
    r'^\s*(?P<root>ROOT\s+)?%?(?P<name>[\w.-]+) = (?P<type>.*?)(?<!\S)(?P<opcode>[a-z][a-z0-9-]*)'
    r'\((?P<arguments>(?:[^()]|\([^()]*\))*)\)(?P<attributes>.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition|true_computation|false_computation|'
                     r'branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)')
_CONDITION = re.compile(r'\bcondition=%?([\w.-]+)')
_TRIP_COUNT = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"n"\s*:\s*"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type.

    Attributes:
      shape: its dimensions.
      bytes: its size without the padding that its layout may ask for.
      in_hbm: whether it stands in a device's main memory and not in a core's own (VMEM).
    """

    shape: tuple[int, ...]
    bytes: int
    in_hbm: bool


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

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its type."""
        return read_type(self.type)

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        return [name for names in _CALLED.findall(self.attributes)
                for name in re.findall(r'[\w.-]+', names)]


#: The instructions of one computation by name.
Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: the name of the one that is run.
      rounds: of a loop whose length cannot be read, where it is known otherwise (the loop of
        generation runs at most as often as there are tokens to generate).
    """

    computations: dict[str, Computation]
    entry: str
    rounds: int | None = None

    def times(self, name: str) -> int:
        """Return how often a computation runs in one run of the program, loops included.

        All branches of a conditional count.

        Raises:
          ValueError: it is in a loop of unknown length.
        """
        if (found := self._times[name]) is None:
            raise ValueError(f'{name} is in a loop whose number of rounds cannot be known; '
                             'say how many to count')
        return found

    @functools.cached_property
    def _times(self) -> dict[str, int | None]:
        callers: dict[str, list] = {name: [] for name in self.computations}
        for name, computation in self.computations.items():
            for one in computation.values():
                rounds = _rounds(one, self) if one.opcode == 'while' else 1
                if not one.opcode.endswith(('-update', '-done')):  # of what `-start` has called
                    for callee in one.called:
                        callers.get(callee, []).append(
                            (name, self.rounds if rounds is None else rounds))

        @functools.cache
        def count(name: str) -> int | None:
            total = int(name == self.entry)
            for caller, rounds in callers[name]:
                outer = count(caller)
                if outer != 0 and None in (outer, rounds):
                    return None
                total += outer and outer * rounds
            return total

        return {name: count(name) for name in self.computations}


def read_module(text: str, rounds: int | None = None) -> Module:
    """Split the text of a module into instructions.

    Args:
      text: what `as_text()` of a compiled program gives.
      rounds: see `Module`.

    Returns:
      The module.

    Raises:
      ValueError: it is no HLO module.
    """
    computations: dict[str, Computation] = {}
    entry, current = '', {}
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            current[found['name']] = Instruction(**found.groupdict() | {
                'root': bool(found['root']), 'type': found['type'].strip()})
        elif found := _COMPUTATION.match(line):
            current = computations.setdefault(found['name'], {})
            entry = found['name'] if found['entry'] else entry
    if not entry:
        raise ValueError('the text is no HLO module: it has no ENTRY computation')
    return Module(computations, entry, rounds)


def read_type(text: str) -> list[Array]:
    """List the arrays of a type, in the order in which they are written.

    Args:
      text: 'f32[4,24]{1,0:T(8,128)S(1)}' or '(bf16[8]{0}, u4[3])'.

    Returns:
      One for each array, its bytes rounded up.

    Raises:
      ValueError: an element type is not known here.
    """
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        shape = tuple(int(size) for size in re.findall(r'\d+', sizes))
        found.append(Array(shape, -(-math.prod(shape) * _element_bits(dtype) // 8),
                           'S(' not in layout))
    return found


def _element_bits(dtype: str) -> int:
    """Return the width of f32, bf16, s8, u4, f8e4m3fn, c64: the first number in the name."""
    if dtype in ('token', 'opaque', 'pred'):
        return 8 if dtype == 'pred' else 0
    width = re.match(r'[a-z]+?(\d+)', dtype)
    if not width:
        raise ValueError(f'{dtype!r} is no element type of HLO that is known here')
    return int(width[1])


def _rounds(loop: Instruction, module: Module) -> int | None:
    """Read the rounds of a loop; None where they are not constant.

    XLA for CPU and GPU writes them down. For TPU they are what the counter is compared with in
    what `lax.scan` becomes, `i = 0; while i < rounds: ...; i += 1`.
    """
    if known := _TRIP_COUNT.search(loop.attributes):
        return int(known[1])
    condition = module.computations[_CONDITION.search(loop.attributes)[1]]
    test = next(one for one in condition.values() if one.root)
    if test.opcode != 'compare' or 'direction=LT' not in test.attributes:
        return None
    last = condition[test.operands[1]]
    return int(last.arguments) if last.opcode == 'constant' else None
