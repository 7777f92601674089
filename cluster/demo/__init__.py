"""``holdfast demo``: the main job, told as a story with numbers, on a cluster of its own."""
