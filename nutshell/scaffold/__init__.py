"""`make resource` and `make new`: they write code for you to read and edit. The service needs none of it."""
