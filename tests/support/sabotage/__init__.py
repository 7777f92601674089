"""Safeguards taken away, one at a time, to see whether anybody notices.

The product has no switch for it: ``site/sitecustomize.py``, which Python runs only where a test names
its folder in PYTHONPATH, exchanges one passage of one module's source while that module is imported.
"""
