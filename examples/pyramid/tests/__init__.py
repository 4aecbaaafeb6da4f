"""Unit tests of the demo app: `python3 -m unittest` in this directory's parent."""

from e2e_k8s import packages

packages.ensure()
