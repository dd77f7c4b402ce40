"""Packaging of genret_jax: `tasks/` and `gin_configs/` lie at the top of a clone and inside the package of a wheel."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# The lower bounds are the versions of constraints-oldest.txt, which the tests run on.
REQUIRES = [
    "jax>=0.10.0",
    "flax>=0.12.4",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.34",
    "gin-config>=0.5.0",
    "jaxtyping>=0.3.3",
    "numpy>=2.1.3",
    "scipy>=1.14.1",
    "scikit-learn>=1.6.1",
    "sentencepiece>=0.2.1",
    "joblib>=1.6.0",
    "safetensors>=0.6.2",
    "snowballstemmer>=2.2.0",
    "tokenizers>=0.21.0",
    "tensorstore>=0.1.86",
    "tqdm>=4.67.0",
    "tensorboardX>=2.6.4",
]
EXTRAS = {
    "seqio": ["seqio>=0.0.20", "tensorflow>=2.20.0", "tensorflow-datasets>=4.9.10"],
    "baselines": ["bm25s>=0.2.13", "PyStemmer>=2.2.0.3", "faiss-cpu>=1.11.0"],
    "viz": ["matplotlib>=3.10.0"],
    "embed": ["sentence-transformers>=5.0"],
    "test": [
        "beartype>=0.22.2",
        "hypothesis>=6.130.0",
        "ir-measures>=0.4.1",
        "mypy>=1.17.0",
        "pytest>=8.4.0",
        "pytest-xdist>=3.7.0",
        "ruff>=0.12.0",
        "setuptools>=77.0.3",
    ],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

version = re.search(r'^__version__ = "(.+)"$', (ROOT / "genret_jax/__init__.py").read_text(), re.MULTILINE)
assert version is not None
readme = ROOT / "README.md"
configs = ["genret_jax.gin_configs"] + [
    "genret_jax.gin_configs." + ".".join(folder.relative_to(ROOT / "gin_configs").parts)
    for folder in sorted((ROOT / "gin_configs").rglob("*"))
    if folder.is_dir() and any(folder.glob("*.gin"))
]
tasks = ["genret_jax.tasks"] + ["genret_jax.tasks." + name for name in find_packages("tasks")]

setup(
    name="genret-jax",
    version=version[1],
    description="Generative retrieval in JAX: a sequence model writes the docid of the document that answers",
    long_description=readme.read_text(encoding="utf-8") if readme.is_file() else "",
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    packages=find_packages(include=["genret_jax", "genret_jax.*"]) + tasks + configs,
    package_dir={"genret_jax.tasks": "tasks", "genret_jax.gin_configs": "gin_configs"},
    package_data={"genret_jax": ["py.typed"], **{package: ["*.gin"] for package in configs}},
    entry_points={"console_scripts": ["genret = genret_jax.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
