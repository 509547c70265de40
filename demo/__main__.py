"""`python -m demo`, or one line that says which Python to use."""

import sys

try:
    from .command import main
except ModuleNotFoundError as error:
    sys.exit(
        f"expected the packages of requirements-dev.txt, got no {error.name}: run `make demo` once, "
        "then .venv/bin/python -m demo (on Windows .venv\\Scripts\\python -m demo)"
    )

if __name__ == "__main__":
    sys.exit(main())
