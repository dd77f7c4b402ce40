"""seqio tasks: each module registers tasks and mixtures when imported, and does nothing else.

Import them as ``genret_jax.tasks.NAME``, in a clone as after an installation: under a second name seqio would find
every task registered already.
"""
