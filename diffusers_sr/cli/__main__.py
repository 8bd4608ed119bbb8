"""`python -m diffusers_sr.cli`: the command, for where its script is not installed."""

import sys

from . import main

sys.exit(main())
