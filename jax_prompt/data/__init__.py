"""Data: vocabularies, tasks, features with virtual tokens, and batches.

Nothing here imports TensorFlow until seqio itself is needed; the modules that do are
`quiet_tensorflow` and `seqio_adaptors`.
"""
