"""`python -m rustllm`: the `rustllm` command."""

import sys

from rustllm.cli import main

sys.exit(main())
