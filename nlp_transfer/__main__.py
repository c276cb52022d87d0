"""Entry point of ``nlp-transfer`` and ``python -m nlp_transfer``, the latter on every rank of ``accelerate launch``."""

import signal
import sys


def main() -> int:
    """Run the command line; return its exit status.

    It is imported here, so that an interrupt meanwhile ends without a traceback, like any later one.
    """
    try:
        from nlp_transfer import cli
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
