"""`python -m diffusers_sr.cli`, the command where its script is not installed."""

import sys

from . import main

sys.exit(main())
