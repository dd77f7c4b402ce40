"""Contrastive loss of dual encoders."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genret_jax.losses.cross_entropy import weighted_sum


def in_batch_contrastive(
    queries: Float[Array, "b d"],
    documents: Float[Array, "n d"],
    document: Int[Array, "n"],
    weights: Float[Array, "b"] | None = None,
    *,
    prefix: Int[Array, "n"] | None = None,
    temperature: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum the negative log-likelihood of each query's document among the documents of the batch.

    This is the loss of dense passage retrieval (Karpukhin et al. 2020, section 3.2, equation 2), except that a second
    occurrence of a document in the batch is no negative of the queries it answers.

    With ``prefix``, the negatives of a query are the documents with the same prefix as the query's document. GenRet's
    reconstruction loss needs this (Sun et al. 2023, arXiv 2304.04171, section 3.2): a code has to separate documents
    that the earlier codes do not separate.

    Args:
        queries: Query vectors, scaled or normalised for the model's similarity.
        documents: Document vectors: first those of the b queries, in order, then hard negatives.
        document: Document index of each document vector.
        weights: Weight of each query, 0 for padding (its document is still a negative); 1 by default.
        prefix: Prefix id of each document vector's document; by default all are equal.
        temperature: Divides the inner products.

    Returns:
        The weighted sum of losses, and the sum of weights.
    """
    batch = queries.shape[0]
    # By default TPUs multiply in bfloat16, which ranks near neighbours at random.
    similarity = jnp.einsum(
        "bd,nd->bn",
        queries.astype(jnp.float32),
        documents.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    own = jnp.arange(batch)[:, None] == jnp.arange(documents.shape[0])[None]
    excluded = document[:batch][:, None] == document[None]
    if prefix is not None:
        excluded |= prefix[:batch][:, None] != prefix[None]
    logits = jnp.where(excluded & ~own, -1e9, similarity / temperature)
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    return weighted_sum(loss, weights)
