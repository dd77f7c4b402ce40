"""Contrastive loss of dual encoders."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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

    Dense passage retrieval's loss (Karpukhin et al. 2020, section 3.2, equation 2), except that a document that occurs
    in the batch more than once is never a negative of the queries it answers.

    With ``prefix`` only documents whose codes so far are those of the query's document are its negatives: the
    candidates of GenRet's reconstruction (Sun et al. 2023, arXiv 2304.04171, section 3.2), which asks a code to tell a
    document from those that the codes before it do not.

    Args:
        queries: Query vectors; scale or normalise them as the model wants its similarity.
        documents: Document vectors, the first b of them the queries' own, in order; further ones are hard negatives.
        document: Number of the document behind each vector.
        weights: Of each query, 0 for padding (its document remains a negative); all 1 when left out.
        prefix: Number of the codes so far of the document behind each vector; all the same when left out.
        temperature: Divides the inner products.

    Returns:
        The weighted sum of losses, and the sum of weights.
    """
    batch = queries.shape[0]
    # The highest precision: TPUs otherwise multiply in bfloat16, which ranks near neighbours at random.
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
    weights = jnp.ones_like(loss) if weights is None else weights.astype(jnp.float32)
    return jnp.sum(loss * weights), jnp.sum(weights)
