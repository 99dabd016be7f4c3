"""`python -m creche`."""

import sys

from creche.cli import main

sys.exit(main())
