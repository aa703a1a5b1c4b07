"""The library, as for the other tests of the machinery."""

from nutshell.tests.conftest import *
