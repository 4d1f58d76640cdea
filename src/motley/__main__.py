"""`python -m motley` is the same as `motley`."""

import sys

from motley.cli.main import main

sys.exit(main())
