"""A lawful service that is unlike ours: test_lawful.py puts it in the place of main.py and models.py.

`service.py` becomes main.py, which models.py imports, and `rows.py` becomes tests/rows.py. The tests of the
upper floor must hold for it as they are.
"""
