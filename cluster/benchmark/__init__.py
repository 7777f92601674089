"""The benchmark: Holdfast, its peers and the machine's own limit, side by side in one run."""
