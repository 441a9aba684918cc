"""TensorFlow and seqio, imported without chatter and kept off accelerators.

TensorFlow is only the host's data pipeline here: on a GPU it would take the memory that JAX needs.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# What TensorFlow's C++ side writes before its logging, and so TF_CPP_MIN_LOG_LEVEL, is set up.
_CHATTER = ('All log messages before absl::InitializeLog', 'port.cc', 'cudart_stub.cc',
            'cpu_feature_guard', 'cuda_executor.cc', 'computation_placer.cc')


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what is written to file descriptor 2 and pass on all but the known chatter."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # a process without a standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            lines = held.read().decode('utf-8', 'replace').splitlines(keepends=True)
            sys.stderr.writelines(
                line for line in lines if not any(word in line for word in _CHATTER))


try:
    with _without_chatter():
        import seqio
        import tensorflow as tf
        import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    raise ValueError(f"seqio's tasks need the Python package {error.name!r}, which is not "
                     "installed: pip install 'jax-prompt[seqio]'") from error

with contextlib.suppress(RuntimeError):  # too late where a program has used TensorFlow's GPUs
    tf.config.set_visible_devices([], 'GPU')

__all__ = ['seqio', 'tf', 'tfds']
