"""How the demo model was trained: `python -m demo.training first`, then `start`, then `second`."""
