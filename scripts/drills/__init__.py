"""What the drills need: scorers and servers that fail (faults), processes that can be killed (forks)."""
