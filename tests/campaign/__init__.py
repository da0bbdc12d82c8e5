"""A campaign against the program: files that nobody would write, deaths at any moment, servers that lie.

``python -m tests.campaign`` runs it and writes the table of docs/reliability.md; it is no part of the fast tests.
"""
