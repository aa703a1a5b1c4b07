"""The tests of the machinery, and what the tests of both floors share."""

import os
import signal
import tempfile
from contextlib import chdir
from unittest import mock

# The settings are read here, before anything else: neither the developer's environment nor a
# `.env` reaches the tests. Most of them call without a token.
with (
    tempfile.TemporaryDirectory() as empty_folder,
    chdir(empty_folder),
    mock.patch.dict(os.environ, {"OPEN_LOCAL": "1"}, clear=True),
):
    import nutshell.settings  # noqa: F401

# A shell lets its background jobs ignore Ctrl-C, and what they start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)
