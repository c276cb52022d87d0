"""``python -m nlp_transfer``, and what ``accelerate launch -m nlp_transfer`` starts on every rank."""

import sys

from nlp_transfer.cli import main

sys.exit(main())
