"""The OpenAPI document. What is here only documents: the service would run without it."""
