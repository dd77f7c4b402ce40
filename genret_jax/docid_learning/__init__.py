"""Docids that a network learns: GenRet (Sun et al. 2023, arXiv 2304.04171)."""
