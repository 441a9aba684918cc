"""Find the weights of a transformer in an ONNX graph: which module multiplies by what."""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from jax_prompt.files import first_line

#: Operators through which a weight keeps its values, followed back to where it is stored.
_PASS_THROUGH = ('Identity', 'Cast', 'Transpose')
#: Operators that neither change values nor need be told apart on the way to a scale.
_RESHAPES = ('Transpose', 'Unsqueeze', 'Squeeze', 'Reshape', 'Identity', 'Expand')
_QUANTISERS = ('DynamicQuantizeLinear', 'QuantizeLinear', 'DequantizeLinear', 'Cast', 'Identity')
_WEIGHT_KINDS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8)


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight that a node of the graph uses.

    Attributes:
      path: the file it is in.
      initializer: its name there.
      node: the node that uses it; `scope`: the module that this node belongs to.
      is_matrix: whether it is multiplied by, `[inputs, outputs]`; else it is a table or a vector.
      stored: what the file holds: the values, or quantised values, scale and zero point.
      axis: the axis of a scale that is not a scalar.
      transposed: whether the graph transposes it on the way.
    """

    path: pathlib.Path
    initializer: str
    node: str
    scope: str
    is_matrix: bool
    stored: tuple[np.ndarray, ...]
    axis: int = 0
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        shape = self.stored[0].shape
        return shape[::-1] if self.transposed else shape

    def values(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the weight as the graph computes with it: float32, dequantised, transposed.

        Args:
          start, stop: which of its rows.
        """
        axis = int(self.transposed)

        def rows_of(array: np.ndarray) -> np.ndarray:
            # What is the same for all rows has one.
            return array if array.shape[axis] == 1 else array[
                (slice(None),) * axis + (slice(start, stop),)]

        values = self.stored[0][(slice(None),) * axis + (slice(start, stop),)]
        if len(self.stored) == 3:
            shape = [1] * values.ndim
            _, scale, zero_point = self.stored
            if scale.size > 1:
                shape[self.axis] = -1
            # Integer differences are exact in float32, so one product rounds once, as in ONNX.
            values = np.subtract(values, rows_of(zero_point.astype(np.float32).reshape(shape)),
                                 dtype=np.float32)
            values *= rows_of(scale.astype(np.float32).reshape(shape))
        values = values.astype(np.float32, copy=False)
        return values.T if self.transposed else values

    def is_stored_like(self, other: 'Weight') -> bool:
        """Tell whether another weight has the same values by what the files hold of both."""
        return (self.axis, self.transposed, len(self.stored)) == (
            other.axis, other.transposed, len(other.stored)) and all(
                one.dtype == its.dtype and np.array_equal(one, its)
                for one, its in zip(self.stored, other.stored, strict=True))


def read_graph(path: pathlib.Path) -> 'Graph':
    """Parse an ONNX file.

    Raises:
      ValueError: when it is no ONNX model, or is truncated, or the onnx package is not there.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(f"reading {path} needs the onnx package, which is not installed: pip "
                         "install 'jax-prompt[onnx]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ValueError(f'{path} is not a readable ONNX file ({error}); '
                         'copy or export it again') from error
    return Graph(path, model.graph)


class Graph:
    """An ONNX graph with the questions that a loader asks of it."""

    def __init__(self, path: pathlib.Path, graph):
        self.path = path
        self._nodes = list(graph.node)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in self._nodes:
            for attribute in node.attribute:
                if node.op_type == 'Constant' and attribute.name == 'value':
                    self._stored[node.output[0]] = attribute.t
        self._initializers = [tensor.name for tensor in graph.initializer]
        self._producer = {out: node for node in self._nodes for out in node.output}
        self._consumers = defaultdict(list)
        for node in self._nodes:
            for name in node.input:
                self._consumers[name].append(node)
        self._used: set[str] = set()

    def weights(self) -> Iterator[Weight]:
        """Yield every weight that a MatMul, a table lookup or a norm uses, in the graph's order."""
        finders = {'MatMul': self._of_matmul, 'MatMulInteger': self._of_integer_matmul,
                   'Gather': self._of_gather, 'Mul': self._of_norm}
        for node in self._nodes:
            weight = finders[node.op_type](node) if node.op_type in finders else None
            if weight is not None:
                yield weight

    def unused_weights(self) -> list[str]:
        """Names of stored arrays that look like weights and that `weights` did not yield."""
        return [name for name in self._initializers
                if name not in self._used and self._is_weight(name)]

    def operators_in(self, module: str) -> set[str]:
        """The operators of all nodes inside modules of this name."""
        return {node.op_type for node in self._nodes if f'/{module}/' in node.name}

    def scalar_added_in(self, module: str) -> float | None:
        """The constant that an Add inside a module adds: the epsilon of a norm."""
        for node in self._nodes:
            if node.op_type == 'Add' and scope_of(node.name).endswith(module):
                for name in node.input:
                    if self._is_scalar(name):
                        return _decimal(self._array(name))
        return None

    def scalar_before(self, module: str) -> float | None:
        """The constant that a module's MatMul input was multiplied by, None if by none."""
        for node in self._nodes:
            if node.op_type in ('MatMul', 'MatMulInteger') and scope_of(node.name).endswith(module):
                source = self._producer.get(node.input[0])
                while source is not None and source.op_type in _QUANTISERS:
                    source = self._producer.get(source.input[0])
                if source is not None and source.op_type == 'Mul':
                    scalars = [name for name in source.input if self._is_scalar(name)]
                    return _decimal(self._array(scalars[0])) if scalars else None
        return None

    def _of_matmul(self, node) -> Weight | None:
        return self._resolve(node, node.input[1], is_matrix=True)

    def _of_integer_matmul(self, node) -> Weight | None:
        """`Y = cast(A_q @ (B_q - zero_point)) * (a_scale * b_scale)`: find B's scale behind it."""
        if node.input[1] not in self._stored:
            return None
        zero_point = node.input[3] if len(node.input) > 3 else ''
        return self._quantised(node, node.input[1], self._scale_behind(node), zero_point, True,
                               axis=-1)

    def _of_gather(self, node) -> Weight | None:
        table = node.input[0]
        if table not in self._stored:
            return self._resolve(node, table, is_matrix=False)
        if not self._is_weight(table) or len(self._stored[table].dims) != 2:
            return None
        if self._array(table).dtype.kind == 'f':
            return self._resolve(node, table, is_matrix=False)
        # A quantised table: rows are looked up first and dequantised behind the lookup.
        follow = self._follow(node.output[0], _RESHAPES, 'DequantizeLinear')
        if follow is None:
            raise ValueError(f'{self.path} looks {table!r} up in node {node.name!r} as integers '
                             'without dequantising them; expected a DequantizeLinear behind it')
        zero_point = follow.input[2] if len(follow.input) > 2 else ''
        if len(self._stored[follow.input[1]].dims) and self._stored[follow.input[1]].dims[0] > 1:
            raise ValueError(f'{self.path} dequantises rows of {table!r} with a scale per axis '
                             'behind the lookup; expected one scale for the table')
        return self._quantised(node, table, follow.input[1], zero_point, False)

    def _of_norm(self, node) -> Weight | None:
        if not scope_of(node.name).endswith('layer_norm'):
            return None
        for name in node.input:
            if name in self._stored and self._is_weight(name):
                return self._resolve(node, name, is_matrix=False)
        return None

    def _resolve(self, node, name: str, is_matrix: bool) -> Weight | None:
        """Follow a node's input back to a stored array; None where it is computed from inputs."""
        transposed = False
        while name not in self._stored:
            source = self._producer.get(name)
            if source is None:
                return None
            if source.op_type == 'DequantizeLinear' and source.input[0] in self._stored:
                axis = next((a.i for a in source.attribute if a.name == 'axis'), 1)
                zero_point = source.input[2] if len(source.input) > 2 else ''
                return self._quantised(node, source.input[0], source.input[1], zero_point,
                                       is_matrix, axis, transposed)
            if source.op_type not in _PASS_THROUGH:
                return None
            transposed ^= source.op_type == 'Transpose'
            name = source.input[0]
        self._used.add(name)
        return Weight(self.path, name, node.name, scope_of(node.name), is_matrix,
                      (self._array(name),), transposed=transposed)

    def _quantised(self, node, values, scale, zero_point, is_matrix, axis=0, transposed=False):
        self._used |= {values, scale, zero_point}
        points = self._array(zero_point) if zero_point else np.zeros((), np.float32)
        return Weight(self.path, values, node.name, scope_of(node.name), is_matrix,
                      (self._array(values), self._array(scale), points), axis, transposed)

    def _scale_behind(self, node) -> str:
        """The stored factor of the product of scales that an integer MatMul's result meets."""
        cast = self._follow(node.output[0], ('Cast',), 'Mul')
        for name in cast.input if cast is not None else ():
            scales = self._producer.get(name)
            if scales is not None and scales.op_type == 'Mul' and scales.input[1] in self._stored:
                return scales.input[1]
        raise ValueError(f'{self.path} has no scale of the weight {node.input[1]!r} behind node '
                         f'{node.name!r}; expected a dynamically quantised MatMul')

    def _follow(self, name: str, through: tuple[str, ...], until: str):
        """The first node of type `until` behind a value, past nodes that do not matter."""
        for node in self._consumers[name]:
            if node.op_type == until:
                return node
            if node.op_type in through:
                found = self._follow(node.output[0], through, until)
                if found is not None:
                    return found
        return None

    def _array(self, name: str) -> np.ndarray:
        from onnx import checker, numpy_helper
        try:
            return numpy_helper.to_array(self._stored[name], base_dir=str(self.path.parent))
        except (checker.ValidationError, ValueError, OSError, TypeError) as error:
            raise ValueError(f'{self.path} has a tensor {name!r:.80} that cannot be read '
                             f'({first_line(error)}); copy or export the model again') from error

    def _is_scalar(self, name: str) -> bool:
        tensor = self._stored.get(name)
        return tensor is not None and int(np.prod(tensor.dims)) == 1

    def _is_weight(self, name: str) -> bool:
        """Whether a stored array holds more than one number of a kind that weights have."""
        from onnx import helper
        tensor = self._stored[name]
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return kind in _WEIGHT_KINDS and int(np.prod(tensor.dims)) > 1


def scope_of(node_name: str) -> str:
    """The module a node belongs to: '/enc/final_layer_norm/Mul_1' -> '/enc/final_layer_norm'."""
    return node_name.rsplit('/', 1)[0]


def _decimal(scalar: np.ndarray) -> float:
    """The shortest decimal that rounds to a stored scalar: 1e-06, not 9.999999974752427e-07."""
    return float(str(scalar.reshape(()).item() if scalar.dtype == np.float64
                     else np.float32(scalar.reshape(()))))
