"""``python -m genret_jax.train`` is ``genret train``, for those who are used to t5x."""

import sys

from genret_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
