"""`python -m osler` is the command `osler`."""

import sys

from osler.cli import main

sys.exit(main())
