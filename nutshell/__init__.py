"""The machinery of the service. It knows no resource by name; `main.py` and `models.py` do."""
