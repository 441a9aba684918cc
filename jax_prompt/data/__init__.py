"""Data: vocabularies, tasks, features with virtual tokens, and batches.

Nothing here imports TensorFlow until seqio itself is needed; the modules that do are
`quiet_tensorflow`, `seqio_tasks` and `seqio_adaptors`.
"""
