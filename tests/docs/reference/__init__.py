"""Makes the pages of the API reference, ``aether_sync/guide/api/``, from the docstrings.

::

    python -m tests.docs.reference           # writes the pages
    python -m tests.docs.reference --check   # writes nothing; exits 1 if a page is not what it would write

griffe reads the sources (https://mkdocstrings.github.io/griffe/), and nothing is imported: so the pages are the same on
every version of Python. They depend on ``aether_sync.__all__``, on the docstrings, and on the plan in ``pages.py``.
"""
