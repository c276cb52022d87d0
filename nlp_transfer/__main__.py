"""Entry point of ``python -m nlp_transfer``, also started on every rank by ``accelerate launch -m nlp_transfer``."""

import sys

from nlp_transfer.cli import main

sys.exit(main())
