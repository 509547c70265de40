"""The small bundled model as a system: its true regions and a judge for every picture are known."""
