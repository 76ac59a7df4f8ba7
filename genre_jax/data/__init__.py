"""The reading path: from shards on disk to batches. It needs NumPy alone; tf.data is used where it is installed."""
