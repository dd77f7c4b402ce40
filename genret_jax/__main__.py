"""``python -m genret_jax`` is ``genret``."""

import sys

from genret_jax.cli import main

sys.exit(main())
